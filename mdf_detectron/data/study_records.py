"""Read clinical records of new studies from a table or DICOM tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdf_detectron.data.image_paths import PathIndex, path_key
from mdf_detectron.data.readers import OpenImage
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.values import parse_age
from mdf_detectron.data.splits import patient_key
from mdf_detectron.errors import DatasetError, find_doubled, shorten

_DICOM_AGE = re.compile(r"\d{1,3}[DWMY]")


@dataclass
class RecordTable:
    """The records of a table by the value of a key column.

    Attributes:
        rows: key → (line number, record) of each of its rows; a key with several rows cannot be looked up.
        kind: "stem", the key is the path or the name of an image file, or "id", a value of another kind.
        used: keys looked up so far, and by what.
    """

    path: Path
    rows: dict[str, list[tuple[int, dict[str, Any]]]]
    kind: str = "stem"
    used: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index = PathIndex((key, key) for key in self.rows)

    @classmethod
    def load(
        cls,
        path: str | Path,
        key: str,
        schema: ClinicalSchema,
        ignored: Iterable[str] = (),
        columns: Mapping[str, str] | None = None,
        kind: str = "stem",
    ) -> RecordTable:
        """Read a table as ``mdf prepare`` does: CSV, TSV, XLSX or Parquet, rows that repeat another left out.

        Args:
            key: the column that identifies the image.
            ignored: columns that are not clinical.
            columns: clinical column → its name in the table, where they differ.
            kind: see :class:`RecordTable`.

        Raises:
            SourceDataError: no such file, key or column, or a row of another length.
            DatasetError: a column that is neither in the schema nor ignored.
        """
        # not at the top: pandas takes a while to import
        from mdf_detectron.data.sources.kit.account import ProblemList
        from mdf_detectron.data.sources.kit.table import read_table
        from mdf_detectron.data.sources.own.joining import rows_by_key

        problems = ProblemList()
        table = read_table(path, problems)
        table.require([key], "--key")
        table.require(list((columns or {}).values()), "--columns")
        names = {name: name for name in table.columns if name != key and name not in set(ignored)}
        names |= {name: clinical for clinical, name in (columns or {}).items()}
        if unknown := sorted(set(names.values()) - set(schema.names)):
            raise DatasetError(
                f"{path}: unknown clinical column(s) {shorten(unknown)}; the schema has {shorten(schema.names)}; "
                "rename them with --columns NAME=COLUMN, or name those that are not clinical with --ignore-columns"
            )
        if doubled := find_doubled(names.values()):
            raise DatasetError(f"{path}: two columns are named {doubled[0]}; leave one out with --ignore-columns")
        found = rows_by_key(table, key, kind, problems)
        if problems.counts:
            raise DatasetError(next(iter(problems.listed.values()))[0])
        records = [{clinical: _stripped(row[name]) for name, clinical in names.items()} for row in table.rows]
        rows = {value: [(table.lines[n], records[n]) for n in numbers] for value, numbers in found.items()}
        return cls(Path(path), rows, kind)

    def record(self, keys: Sequence[str]) -> dict[str, Any] | None:
        """Return the record of the first key found, or None; raise ``DatasetError`` if it is not sure to be its own."""
        for key in filter(None, map(patient_key, keys)):
            key = path_key(key) if self.kind == "stem" else key
            found = self._index.find(key)[0] if self.kind == "stem" else [key] * (key in self.rows)
            if not found:
                continue
            first = self.used.setdefault(found[0], key)
            if len(found) > 1 or (first != key and self.kind == "stem"):
                meant = f"{key} may be {' or '.join(found[:3])}" if len(found) > 1 else f"{found[0]}: {first} or {key}"
                raise DatasetError(f"{self.path}: {shorten(meant)}; write the whole path of the image as its key")
            (_, record), *others = self.rows[found[0]]
            if others:
                lines = [line for line, _ in self.rows[found[0]]]
                raise DatasetError(f"{self.path}: the key {shorten(found[0])} is in lines {lines}; keep one")
            return record
        return None

    @property
    def unused(self) -> list[str]:
        return [key for key in self.rows if key not in self.used]


def keys_of(image: OpenImage, tag: str | None = None, folders: Iterable[Path] = ()) -> list[str]:
    """List the keys that may identify an image in a table: its path below one of the folders, or a DICOM tag."""
    if tag is None:
        folder = next((folder for folder in folders if image.path.is_relative_to(folder)), None)
        return [str(image.path.relative_to(folder) if folder else image.path.absolute())]
    value = image.tags([tag])[tag]
    return [] if value is None else [value]


def dicom_record(image: OpenImage, tags: Mapping[str, str]) -> dict[str, Any]:
    """Read a record from ``tags``, clinical column → DICOM keyword; an age ("062Y") becomes years."""
    found = image.tags(list(tags.values()))
    return {column: _value(found[keyword]) for column, keyword in tags.items()}


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _value(text: str | None) -> Any:
    return parse_age(text)[0] if _DICOM_AGE.fullmatch(text or "") else text
