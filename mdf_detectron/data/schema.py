"""Describe the columns of the clinical records, and check every record against them.

A schema is a YAML file beside a prepared dataset (``clinical_schema.yaml``)::

    version: 1
    columns:
      - {name: age, kind: numeric, unit: years, minimum: 0, maximum: 120}
      - {name: gender, kind: categorical, vocabulary: [F, M]}

The order of the columns is the order of the model's inputs.  A missing value is ``null`` (``None``,
NaN or an empty string are read as the same); any other value outside ``[minimum, maximum]`` or outside
``vocabulary`` is an error that names the record and the column, because a value that the preparation
should have cleaned must not reach a model silently.  YAML makes booleans of an unquoted ``yes`` or ``no`` and text of
``1e3``: where it must be something else, the message says how to write it.  ``columns: []`` is of a folder without
clinical records, for image-only models.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mdf_detectron.errors import DatasetError, shorten
from mdf_detectron.fileio import read_yaml, shorten_path, write_text

VERSION = 1
"""Of the schema file."""

MISSING_CATEGORY = -1
"""Code of a missing categorical value in :attr:`ParsedRecord.categorical`."""


SCHEMA_FILE_NAME = "clinical_schema.yaml"


_KINDS = ("numeric", "categorical")

LARGEST_LIMIT = 2**63
"""An integer beyond it is no limit of a clinical value."""


@dataclass(frozen=True)
class ClinicalColumn:
    """One column.

    Attributes:
        name: name in the ``clinical`` dict of a record.
        kind: ``"numeric"`` or ``"categorical"``.
        unit: unit of a numeric column, for people ("°F", "/min", "years").
        minimum, maximum: legal range of a numeric column, both ends included.
        vocabulary: legal values of a categorical column; a value's code is its index.
        description: one line for people.
    """

    name: str
    kind: str
    unit: str = ""
    minimum: float = -math.inf
    maximum: float = math.inf
    vocabulary: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise DatasetError(f"column '{self.name}': kind {shorten(self.kind)} is not one of {_KINDS}")
        if self.kind == "categorical" and len(set(self.vocabulary)) != max(len(self.vocabulary), 1):
            raise DatasetError(
                f"column '{self.name}': a categorical column needs a vocabulary of distinct values, "
                f"got {shorten(list(self.vocabulary))}"
            )
        if self.kind == "numeric" and not self.minimum <= self.maximum:
            raise DatasetError(f"column '{self.name}': minimum {self.minimum} > maximum {self.maximum}")

    def parse(self, value: Any, where: str) -> float | int:
        """Return the number of a raw value: a float (NaN where missing) or a vocabulary index (-1 where missing).

        Raises:
            DatasetError: a value outside the range or the vocabulary, or of another kind (a boolean is no number).
        """
        if is_missing(value):
            return MISSING_CATEGORY if self.kind == "categorical" else math.nan
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
            return self.vocabulary.index(text)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise DatasetError(f"{where}: column '{self.name}' is {shorten(value)}, not a number or null") from None
        if not (self.minimum <= number <= self.maximum and math.isfinite(number)):
            raise DatasetError(
                f"{where}: column '{self.name}' is {number:g}, outside its legal range "
                f"[{self.minimum:g}, {self.maximum:g}] {self.unit}".rstrip()
                + "; correct the value or set it to null"
            )
        return number

    def to_dict(self) -> dict[str, Any]:
        """The YAML form: only what is set."""
        out: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.unit:
            out["unit"] = self.unit
        if self.kind == "numeric":
            out |= {k: v for k, v in (("minimum", self.minimum), ("maximum", self.maximum)) if math.isfinite(v)}
        else:
            out["vocabulary"] = list(self.vocabulary)
        if self.description:
            out["description"] = self.description
        return out


@dataclass(frozen=True)
class ParsedRecord:
    """One parsed record: ``numeric`` floats (NaN = missing) and ``categorical`` codes (-1 = missing), schema order."""

    numeric: list[float] = field(default_factory=list)
    categorical: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ClinicalSchema:
    """An ordered set of columns with distinct names."""

    columns: tuple[ClinicalColumn, ...]

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
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
        """Raise :class:`~mdf_detectron.errors.DatasetError` if a record has a column that the schema does not know."""
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise DatasetError(
                f"{where}: unknown clinical column(s) {shorten(unknown)}; the schema has {shorten(self.names)}"
            )

    def parse_record(self, row: Mapping[str, Any] | None, where: str) -> ParsedRecord:
        """Parse the ``clinical`` dict of a study; an absent column, or no record at all, is missing.

        Args:
            row: column name → raw value.
            where: file and record, for the message of an error.
        """
        row = row or {}
        self.check_names(row, where)
        return ParsedRecord(
            numeric=[float(c.parse(row.get(c.name), where)) for c in self.numeric],
            categorical=[int(c.parse(row.get(c.name), where)) for c in self.categorical],
        )

    def subset(self, numeric: Iterable[str], categorical: Iterable[str]) -> ClinicalSchema:
        """Return the schema of the named columns, in the order named.

        Raises:
            DatasetError: a name that no column of that kind has.
        """
        by_name = {c.name: c for c in self.columns}
        chosen = []
        for kind, names in (("numeric", numeric), ("categorical", categorical)):
            for name in names:
                if name not in by_name or by_name[name].kind != kind:
                    known = [c.name for c in self.columns if c.kind == kind]
                    raise DatasetError(f"no {kind} column '{name}' in the schema; it has {known}")
                chosen.append(by_name[name])
        return ClinicalSchema(tuple(chosen))

    def to_dict(self) -> dict[str, Any]:
        return {"version": VERSION, "columns": [c.to_dict() for c in self.columns]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "clinical schema") -> ClinicalSchema:
        """Invert :meth:`to_dict`.

        Raises:
            DatasetError: no list of columns, an unknown or absent key, or a value of another kind.
        """
        columns = data.get("columns") if isinstance(data, Mapping) else None
        if not isinstance(columns, list):
            raise DatasetError(f"{where}: no 'columns'; expected a list of {{name, kind, ...}}, or [] for images alone")
        if data.get("version", VERSION) != VERSION:
            raise DatasetError(
                f"{where}: version {shorten(data['version'])}; this software reads {VERSION}, prepare the dataset again"
            )
        try:
            return cls(tuple(_column(column, number) for number, column in enumerate(columns)))
        except DatasetError as error:
            raise DatasetError(f"{where}: {error}") from None

    def save(self, path: str | Path) -> None:
        write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    @classmethod
    def load(cls, path: str | Path) -> ClinicalSchema:
        """Read a YAML file with the safe loader; a missing or broken file raises ``DatasetError``."""
        path = Path(path)
        if not os.path.exists(path):
            raise DatasetError(
                f"no clinical schema at {shorten_path(path)}; a prepared dataset folder has one, see datasets/README.md"
            )
        return cls.from_dict(read_yaml(path, DatasetError), where=str(path))


def _column(entry: Any, number: int) -> ClinicalColumn:
    """Build a column from its YAML form, every value checked for what YAML made of it."""
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise DatasetError(
            f"columns[{number}]: {shorten(entry)} has no name; expected {{name: age, kind: numeric, ...}}"
            + (_QUOTE if isinstance(name, bool) else "")
        )
    known = [f.name for f in fields(ClinicalColumn)]
    unknown = [key for key in entry if key not in known]
    if unknown or entry.get("kind") is None:
        wrong = f"unknown key {shorten(unknown[0])}" if unknown else "no 'kind' (numeric or categorical)"
        raise DatasetError(f"column '{name}': {wrong}; a column has {', '.join(known)}")
    texts = {key: _text(entry[key], name, key) for key in ("kind", "unit", "description") if entry.get(key) is not None}
    limits = {key: _limit(entry[key], name, key) for key in ("minimum", "maximum") if key in entry}
    values = entry.get("vocabulary", ())
    if not isinstance(values, (list, tuple)):
        raise DatasetError(f"column '{name}': vocabulary {shorten(values)} is no list; write [F, M], for example")
    return ClinicalColumn(name=name, **texts, **limits, vocabulary=tuple(_word(value, name) for value in values))


_QUOTE = "; YAML reads an unquoted yes, no, on, off, true or false as a boolean: put it in quotes"


def _text(value: Any, name: str, key: str) -> str:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    hint = _QUOTE if isinstance(value, bool) else ""
    raise DatasetError(f"column '{name}': {key} is {shorten(value)}, not a text{hint}")


def _word(value: Any, name: str) -> str:
    if isinstance(value, bool):
        text = f"YAML made the boolean {value} of a value of the vocabulary; write it in quotes"
        raise DatasetError(f'column \'{name}\': {text}, for example vocabulary: ["yes", "no"]')
    if isinstance(value, str) or type(value) is int:
        return str(value)
    raise DatasetError(
        f"column '{name}': YAML made {shorten(value)} ({type(value).__name__}) of a value of the vocabulary; "
        "write it in quotes, as the records have it"
    )


def _limit(value: Any, name: str, key: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and (isinstance(value, float) and not math.isnan(value) or abs(value) < LARGEST_LIMIT):
        return value
    hint = ""
    if isinstance(value, str):
        try:
            hint = f": YAML reads {value} as text; write {float(value):.15g}"
        except ValueError:
            hint = ", but a text"
    raise DatasetError(f"column '{name}': {key} is {shorten(value)}, not a number{hint}")


def is_missing(value: Any) -> bool:
    """Tell whether a raw value stands for none: None, NaN, or a text without characters."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )
