"""Read clinical records of new studies from a CSV table, DICOM tags or the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdf_detectron.data.readers import OpenImage
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.values import parse_age
from mdf_detectron.errors import DatasetError, find_doubled, shorten
from mdf_detectron.fileio import read_csv

_DICOM_AGE = re.compile(r"\d{1,3}[DWMY]")


@dataclass
class RecordTable:
    """The rows of a CSV table by the value of a key column.

    Attributes:
        rows: key → (line number, record) of each of its rows; a key with several rows cannot be looked up.
        used: keys looked up so far.
    """

    path: Path
    rows: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @classmethod
    def load(
        cls,
        path: str | Path,
        key: str,
        schema: ClinicalSchema,
        ignored: Iterable[str] = (),
        columns: Iterable[str] = (),
    ) -> RecordTable:
        """Read a table.

        Args:
            key: the column that identifies the image.
            ignored: columns that are not clinical.
            columns: "CLINICAL=TABLE" pairs for columns with a different name in the table.

        Raises:
            DatasetError: no such file or key, or a column that is neither in the schema nor ignored.
        """
        path, renamed = Path(path), dict(parse_pairs(columns, "--columns"))
        lines = read_csv(path, DatasetError)
        _, header = next(lines, (1, []))
        if key not in header:
            raise DatasetError(f"{path}: no column '{key}' (--key); it has {shorten(header, 200)}")
        if absent := sorted(set(renamed.values()) - set(header)):
            raise DatasetError(f"{path}: no column(s) {absent} (--columns); it has {shorten(header, 200)}")
        if doubled := find_doubled(header):
            raise DatasetError(f"{path}: the column {shorten(doubled[0])} is in the header twice; rename one")
        names = {table: clinical for clinical, table in renamed.items()}
        left = [name for name in header if name != key and name not in set(ignored)]
        unknown = sorted({names.get(name, name) for name in left} - set(schema.names))
        if unknown:
            raise DatasetError(
                f"{path}: unknown clinical column(s) {shorten(unknown)}; the schema has {shorten(schema.names)}; "
                "rename them with --columns NAME=COLUMN, or name those that are not clinical with --ignore-columns"
            )
        table = cls(path)
        for line, values in lines:
            if len(values) != len(header):
                raise DatasetError(f"{path}, line {line}: {len(values)} values under {len(header)} column names")
            row = dict(zip(header, (value.strip() for value in values), strict=True))
            table.rows.setdefault(row[key], []).append((line, {names.get(name, name): row[name] for name in left}))
        return table

    def record(self, keys: Sequence[str]) -> dict[str, str] | None:
        """Return the record of the first key found, or None; raise ``DatasetError`` if it has several rows."""
        for key in keys:
            if key in self.rows:
                self.used.add(key)
                (line, record), *others = self.rows[key]
                if others:
                    lines = [line, *(other for other, _ in others)]
                    raise DatasetError(f"{self.path}: the key {shorten(key)} is in lines {lines}; keep one")
                return record
        return None

    @property
    def unused(self) -> list[str]:
        return [key for key in self.rows if key not in self.used]


def keys_of(image: OpenImage, tag: str | None = None) -> list[str]:
    """List the keys that may identify an image in a table: file name and stem, or the value of a DICOM tag."""
    if tag is None:
        return [image.path.name, image.path.stem]
    value = image.tags([tag])[tag]
    return [] if value is None else [value]


def dicom_record(image: OpenImage, tags: Mapping[str, str]) -> dict[str, Any]:
    """Read a record from ``tags``, clinical column → DICOM keyword; an age ("062Y") becomes years."""
    found = image.tags(list(tags.values()))
    return {column: _value(found[keyword]) for column, keyword in tags.items()}


def _value(text: str | None) -> Any:
    return parse_age(text)[0] if _DICOM_AGE.fullmatch(text or "") else text


def parse_pairs(words: Iterable[str], option: str) -> list[tuple[str, str]]:
    """Split NAME=VALUE words; raise ``DatasetError`` without "=" or for a repeated name."""
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise DatasetError(f"{option} {shorten(word)}: expected NAME=VALUE")
        pairs.append((name.strip(), value.strip()))
    if doubled := find_doubled(name for name, _ in pairs):
        raise DatasetError(f"{option}: {doubled} given twice")
    return pairs
