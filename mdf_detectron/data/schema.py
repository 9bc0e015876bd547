"""The columns of a clinical table, and the check that every row passes.

A schema is a YAML file beside a prepared dataset (``clinical_schema.yaml``)::

    version: 1
    columns:
      - {name: age, kind: numeric, unit: years, minimum: 0, maximum: 120}
      - {name: gender, kind: categorical, vocabulary: [F, M]}

The order of the columns is the order of the model's inputs.  A missing value is ``null`` (``None``,
NaN or an empty string are read as the same); any other value outside ``[minimum, maximum]`` or outside
``vocabulary`` is an error that names the record and the column, because a value that the preparation
should have cleaned must not reach a model silently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mdf_detectron.errors import DatasetError

MISSING_CATEGORY = -1
"""Code of a missing categorical value in :attr:`ClinicalRow.categorical`."""


SCHEMA_FILE_NAME = "clinical_schema.yaml"


_KINDS = ("numeric", "categorical")


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
            raise DatasetError(f"column '{self.name}': kind '{self.kind}' is not one of {_KINDS}")
        if self.kind == "categorical" and len(set(self.vocabulary)) != max(len(self.vocabulary), 1):
            raise DatasetError(
                f"column '{self.name}': a categorical column needs a vocabulary of distinct values, "
                f"got {list(self.vocabulary)}"
            )
        if self.kind == "numeric" and not self.minimum <= self.maximum:
            raise DatasetError(f"column '{self.name}': minimum {self.minimum} > maximum {self.maximum}")

    def parse(self, value: Any, where: str) -> float | int:
        """Number of a raw value: a float (NaN where missing) or a vocabulary index (-1 where missing)."""
        if _is_missing(value):
            return MISSING_CATEGORY if self.kind == "categorical" else math.nan
        if self.kind == "categorical":
            if str(value) not in self.vocabulary:
                raise DatasetError(
                    f"{where}: column '{self.name}' is {value!r}; the schema allows {list(self.vocabulary)} or null"
                )
            return self.vocabulary.index(str(value))
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise DatasetError(f"{where}: column '{self.name}' is {value!r}, not a number or null") from None
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
class ClinicalRow:
    """One parsed row: ``numeric`` floats (NaN = missing) and ``categorical`` codes (-1 = missing), schema order."""

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
        """Raise :class:`DatasetError` if a row has a column that the schema does not know."""
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise DatasetError(f"{where}: unknown clinical column(s) {unknown}; the schema has {self.names}")

    def parse_row(self, row: Mapping[str, Any] | None, where: str) -> ClinicalRow:
        """Parse the ``clinical`` dict of a record; an absent column, or no row at all, is missing.

        Args:
            row: column name → raw value.
            where: file and record, for the message of an error.
        """
        row = row or {}
        self.check_names(row, where)
        return ClinicalRow(
            numeric=[float(c.parse(row.get(c.name), where)) for c in self.numeric],
            categorical=[int(c.parse(row.get(c.name), where)) for c in self.categorical],
        )

    def subset(self, numeric: Iterable[str], categorical: Iterable[str]) -> ClinicalSchema:
        """The schema of the named columns, in the order named; an unknown name raises :class:`DatasetError`."""
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
        return {"version": 1, "columns": [c.to_dict() for c in self.columns]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "clinical schema") -> ClinicalSchema:
        """Inverse of :meth:`to_dict`; unknown keys are an error."""
        try:
            columns = tuple(
                ClinicalColumn(**{**c, "vocabulary": tuple(str(v) for v in c.get("vocabulary", ()))})
                for c in data["columns"]
            )
            return cls(columns)
        except DatasetError as error:
            raise DatasetError(f"{where}: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{where}: expected 'columns', a list of {{name, kind, ...}}; could not read it: {error}"
            ) from None

    def save(self, path: str | Path) -> None:
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ClinicalSchema:
        """Read a YAML file (safe loader); a missing or broken file raises :class:`DatasetError`."""
        path = Path(path)
        if not path.is_file():
            raise DatasetError(
                f"no clinical schema at {path}; a prepared dataset folder has one, see datasets/README.md"
            )
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise DatasetError(f"{path}: not valid YAML: {error}") from None
        return cls.from_dict(data, where=str(path))


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
