"""Define the columns of the clinical records, and validate records against them.

A schema is a YAML file of a prepared folder (``clinical_schema.yaml``)::

    version: 1
    columns:
      - {name: age, kind: numeric, unit: years, minimum: 0, maximum: 120}
      - {name: gender, kind: categorical, vocabulary: [F, M]}

Columns are in the order of the model's inputs; ``columns: []`` means no clinical records (image-only models).
``source``, ``mapping`` and ``missing`` of a column, and the entry ``table`` (:class:`TableRecipe`), say how a table was
read and how one of new patients is read.

A record is *parsed* once, on entry (:meth:`ClinicalSchema.parse_record`), into floats, words of the vocabulary, or None
for missing values (``null``, NaN, empty text). Any other value is an error that names record and column: a value that
preparation should have cleaned must not silently reach a model. :meth:`ClinicalSchema.encode` turns parsed values into
the model's numbers. This module imports no torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import yaml
from pydantic import ConfigDict, PlainValidator, StrictFloat, StrictInt, StrictStr

from mdf_detectron.errors import DatasetError, find_doubled, shorten
from mdf_detectron.fileio import read_yaml, shorten_path, write_text
from mdf_detectron.validation import validated

VERSION = 1
"""Of the schema file."""

MISSING_CATEGORY = -1
"""Code of a missing categorical value."""

SCHEMA_FILE_NAME = "clinical_schema.yaml"
REPORT_FILE_NAME = "report.json"

_KINDS = ("numeric", "categorical")
_LARGEST_LIMIT = 2**63
"""Integers from here on are not accepted as limits."""

Value = float | str | None
"""A parsed value: a number, a word of the vocabulary, or None if missing."""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        raise ValueError(f"YAML reads an unquoted yes, no, on, off, true or false as a boolean ({value}): quote it")
    if value is None or isinstance(value, (str, int, float)):
        return "" if value is None else str(value)
    raise ValueError(f"{shorten(value)} is not a text")


def _words(values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{shorten(values)} is not a list; write [F, M], for example")
    for value in values:
        if not isinstance(value, str) and type(value) is not int:
            quoted = 'for example ["yes", "no"]' if isinstance(value, bool) else "as the records have it"
            raise ValueError(f"YAML made {shorten(value)} ({type(value).__name__}) of a value; quote it, {quoted}")
    return tuple(map(str, values))


def _limit(value: Any) -> float:
    hint = ""
    if isinstance(value, str):
        with suppress(ValueError):
            hint = f": YAML reads it as text; write {float(value):.15g}"
    elif isinstance(value, float) and not math.isnan(value) or type(value) is int and abs(value) < _LARGEST_LIMIT:
        return value
    raise ValueError(f"{shorten(value)} is not a number{hint}")


def _pairs(values: Any) -> dict[str, str]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{shorten(values)} is not a mapping; write {{male: M, female: F}}, for example")
    return dict(zip(_words(list(values)), _words(list(values.values())), strict=True))


@dataclass(frozen=True)
class TableRecipe:
    """How the table of records was read; the options of ``mdf prepare own`` of the same names, with their defaults."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    key: str | None = None
    patient: str | None = None
    time: str | None = None
    record_time: str | None = None
    time_format: str | None = None
    sheet: str | None = None
    encoding: str | None = None
    decimal_comma: bool = False
    thousands: Literal["", ",", "."] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the entries that are not defaults."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True)
class ClinicalColumn:
    """One column of the clinical records.

    Attributes:
        name: key in a record's ``clinical`` dict.
        kind: ``"numeric"`` or ``"categorical"``.
        unit: of a numeric column, for display ("°F", "/min", "years").
        minimum, maximum: legal range of a numeric column, inclusive.
        vocabulary: legal values of a categorical column; a value's code is its index.
        description: one line for display.
        source: column of the table, or "dicom:TAG"; empty: the name.
        mapping: raw spelling → value, ignoring case.
        missing: raw values that mean a missing value, such as -9.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    name: Annotated[str, PlainValidator(_text)]
    kind: Annotated[str, PlainValidator(_text)]
    unit: Annotated[str, PlainValidator(_text)] = ""
    minimum: Annotated[float, PlainValidator(_limit)] = -math.inf
    maximum: Annotated[float, PlainValidator(_limit)] = math.inf
    vocabulary: Annotated[tuple[str, ...], PlainValidator(_words)] = ()
    description: Annotated[str, PlainValidator(_text)] = ""
    source: Annotated[str, PlainValidator(_text)] = ""
    mapping: Annotated[Mapping[str, str], PlainValidator(_pairs)] = field(default_factory=dict, hash=False)
    missing: tuple[StrictInt | StrictFloat | StrictStr, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise DatasetError("a column has no name; expected {name: age, kind: numeric, ...}")
        if self.kind not in _KINDS:
            raise DatasetError(f"column '{self.name}': kind {shorten(self.kind)} is not one of {_KINDS}")
        if self.kind == "categorical" and len(set(self.vocabulary)) != max(len(self.vocabulary), 1):
            raise DatasetError(
                f"column '{self.name}': a categorical column needs a vocabulary of distinct values, "
                f"got {shorten(list(self.vocabulary))}"
            )
        if self.kind == "numeric" and not self.minimum <= self.maximum:
            raise DatasetError(f"column '{self.name}': minimum {self.minimum} > maximum {self.maximum}")

    def parse(self, value: Any, where: str) -> Value:
        """Parse a raw value into a float within the range, a word of the vocabulary, or None if missing.

        Raises:
            DatasetError: a value outside the range or vocabulary, or of another type (booleans are not numbers).
        """
        if is_missing(value) or self.is_code(value):
            return None
        if isinstance(value, (bool, np.bool_)):
            expected = f"one of {shorten(list(self.vocabulary))}" if self.kind == "categorical" else "a number"
            raise DatasetError(f"{where}: column '{self.name}' is the boolean {value}, not {expected} or null")
        if self.kind == "categorical":
            text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            if text not in self.vocabulary:
                raise DatasetError(
                    f"{where}: column '{self.name}' is {shorten(value)}; "
                    f"the schema allows {shorten(list(self.vocabulary), 200)} or null"
                )
            return text
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise DatasetError(f"{where}: column '{self.name}' is {shorten(value)}, not a number or null") from None
        if self.is_code(number):
            return None
        if not (self.minimum <= number <= self.maximum and math.isfinite(number)):
            raise DatasetError(
                f"{where}: column '{self.name}' is {number:g}, outside its legal range "
                f"[{self.minimum:g}, {self.maximum:g}] {self.unit}".rstrip()
                + "; correct the value or set it to null"
            )
        return number

    def is_code(self, value: Any) -> bool:
        """Tell whether a raw value is one of ``missing``, in any spelling."""
        return any(spelling(value) == spelling(code) for code in self.missing)

    def encode(self, value: Any, where: str) -> float | int:
        """Turn a raw or parsed value into the model's number: a float (NaN if missing) or a code (-1 if missing)."""
        value = self.parse(value, where)
        if self.kind == "numeric":
            return math.nan if value is None else value
        return MISSING_CATEGORY if value is None else self.vocabulary.index(value)

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form, without defaults."""
        out: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.unit:
            out["unit"] = self.unit
        if self.kind == "numeric":
            out |= {k: v for k, v in (("minimum", self.minimum), ("maximum", self.maximum)) if math.isfinite(v)}
        else:
            out["vocabulary"] = list(self.vocabulary)
        rest = {"description": self.description, "source": self.source, "mapping": dict(self.mapping)}
        return out | {k: v for k, v in {**rest, "missing": list(self.missing)}.items() if v}


@dataclass(frozen=True)
class ClinicalSchema:
    """An ordered set of columns with distinct names."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    columns: tuple[ClinicalColumn, ...]
    version: Literal[1] = VERSION
    table: TableRecipe = field(default_factory=TableRecipe)

    def __post_init__(self) -> None:
        if doubled := find_doubled(self.names):
            raise DatasetError(f"columns named twice: {doubled}")

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]

    @property
    def numeric(self) -> list[ClinicalColumn]:
        return [c for c in self.columns if c.kind == "numeric"]

    @property
    def categorical(self) -> list[ClinicalColumn]:
        return [c for c in self.columns if c.kind == "categorical"]

    def check_names(self, names: Iterable[str], where: str) -> None:
        """Raise :class:`~mdf_detectron.errors.DatasetError` if a column name is not in the schema."""
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise DatasetError(
                f"{where}: unknown clinical column(s) {shorten(unknown)}; the schema has {shorten(self.names)}"
            )

    def parse_record(self, record: Mapping[str, Any] | None, where: str) -> dict[str, Value]:
        """Parse a study's record, column → raw value; absent columns are missing, as is every column without a record.

        Args:
            where: file and record, for error messages.

        Returns:
            parsed value of every column, in schema order.
        """
        record = {} if record is None else dict(record.items()) if hasattr(record, "items") else record
        if not isinstance(record, Mapping):
            raise DatasetError(f"{where}: the record is {shorten(record)}; expected column → value, as a dict")
        self.check_names(record, where)
        return {column.name: column.parse(record.get(column.name), where) for column in self.columns}

    def encode(self, record: Mapping[str, Value] | None, where: str) -> tuple[list[float], list[int]]:
        """Return a record's numeric values (NaN = missing) and categorical codes (-1 = missing), in schema order.

        Columns that are not in the schema are ignored.
        """
        record = record or {}
        return (
            [column.encode(record.get(column.name), where) for column in self.numeric],
            [column.encode(record.get(column.name), where) for column in self.categorical],
        )

    def encode_all(
        self, records: Iterable[Mapping[str, Value] | None], where: Iterable[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode N records as :meth:`encode` does: (N, A) float32, NaN if missing, and (N, B) int64, -1 if missing."""
        rows = [self.encode(record, place) for record, place in zip(records, where, strict=True)]
        numeric = np.array([numbers for numbers, _ in rows], np.float32).reshape(len(rows), len(self.numeric))
        return numeric, np.array([codes for _, codes in rows], np.int64).reshape(len(rows), len(self.categorical))

    def subset(self, numeric: Iterable[str], categorical: Iterable[str]) -> ClinicalSchema:
        """Return a schema of the named columns, in the given order, numeric ones first; all must exist."""
        columns = {(c.kind, c.name): c for c in self.columns}
        chosen = [*(("numeric", name) for name in numeric), *(("categorical", name) for name in categorical)]
        for kind, name in chosen:
            if (kind, name) not in columns:
                known = [c.name for c in self.columns if c.kind == kind]
                raise DatasetError(f"no {kind} column '{name}' in the schema; it has {known}")
        return ClinicalSchema(tuple(columns[key] for key in chosen))

    def to_dict(self) -> dict[str, Any]:
        out = {"version": self.version, "columns": [c.to_dict() for c in self.columns]}
        return out | ({"table": table} if (table := self.table.to_dict()) else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "clinical schema") -> ClinicalSchema:
        """Validate the output of :meth:`to_dict` and rebuild the schema; raise ``DatasetError`` if it is invalid."""
        if not isinstance(data, Mapping) or not isinstance(data.get("columns"), list):
            raise DatasetError(f"{where}: no 'columns'; expected a list of {{name, kind, ...}}, or [] for images alone")
        return validated(cls, data, where, DatasetError)

    def save(self, path: str | Path) -> None:
        write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    @classmethod
    def load(cls, path: str | Path) -> ClinicalSchema:
        """Read a YAML file with the safe loader; raise ``DatasetError`` if it is missing or invalid."""
        path = Path(path)
        if not os.path.exists(path):
            raise DatasetError(f"no clinical schema at {shorten_path(path)}; `mdf prepare` makes a folder that has one")
        return cls.from_dict(read_yaml(path, DatasetError), where=str(path))


def spelling(value: Any) -> str:
    """Fold a value for comparison; a whole float, as columns with missing values hold codes, gives "2"."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else " ".join(str(value).split()).casefold()


def is_missing(value: Any) -> bool:
    """Check whether a raw value is missing: None, NaN, pandas' NA, or empty or blank text."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, (float, np.floating)) and math.isnan(value))
        or type(value).__name__ in ("NAType", "NaTType")  # of pandas
    )
