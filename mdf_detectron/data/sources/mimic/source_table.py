"""Read one source table: its files, its broken rows, and the account of them.

Columns that are not needed are ignored, whatever they hold. Files may be gzipped or plain, with LF or CRLF.
A broken row is named by file, line and value; it stops the preparation or is left out and counted.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.values import ProblemList
from mdf_detectron.errors import SourceDataError
from mdf_detectron.fileio import read_csv

LINE, FILE, RAGGED = "_line", "_file", "_ragged"
"""Line of a row in its file (the header is line 1), number of its file, and its cells where it has too few or many."""


HELPERS = [LINE, FILE]


REPEATED = "repeats another row"
_LARGEST = 2**53
"""Whole numbers beyond it are not exact as floats."""

_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,6})?)\d*(?:Z|[+-]\d\d:?\d\d)?$")


UNUSABLE_FILE, OTHER_LENGTH = "unusable file", "row of another length than the header"


class SourceTable:
    """Reads files of one kind and accounts for their rows.

    Args:
        name: in the flow ("rows of <name>").
        paths: one file, or one a patient; of several a file that cannot be used is a problem of its own.
        problems: what to do with broken rows.
    """

    def __init__(self, name: str, paths: Sequence[Path], problems: ProblemList) -> None:
        self.name, self.paths, self.problems = name, list(paths), problems
        self.rows_in, self.dropped = 0, Counter()

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """All rows with the named columns, :data:`LINE` and :data:`FILE`.

        Raises:
            SourceDataError: a file that cannot be read or lacks a column.
        """
        tables = []
        for number, path in enumerate(self.paths):
            try:
                tables.append(_read_file(path, columns).assign(**{FILE: number}))
            except SourceDataError as error:
                if len(self.paths) == 1:
                    raise
                self.problems.add(UNUSABLE_FILE, str(error))
        if not tables:
            raise SourceDataError(f"none of {len(self.paths)} files of the {self.name} can be used, "
                                  f"{self.paths[0]} is the first; download them again")  # fmt: skip
        table = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
        self.rows_in = len(table)
        ragged = table[RAGGED].notna()
        for row in table.index[ragged]:
            self._drop(table, row, OTHER_LENGTH, f"{table.at[row, RAGGED]}; a row is cut off, or a comma has no quotes")
        return table.loc[~ragged, [*columns, *HELPERS]]

    def without(
        self, table: pd.DataFrame, bad: pd.Series, columns: str | Sequence[str], expected: str, kind: str | None = None
    ) -> pd.DataFrame:
        """The table without the bad rows, each of which was a problem of ``kind``."""
        names = [columns] if isinstance(columns, str) else list(columns)
        for row in table.index[bad]:
            values = ", ".join(f"{name} {_value(table, row, name)}" for name in names)
            self._drop(table, row, kind or f"unusable {names[0]}", f"{values}; expected {expected}")
        return table[~bad]

    def integers(self, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """The named columns as int64, without the rows in which they are something else."""
        for name in names:
            numbers = pd.to_numeric(table[name], errors="coerce")
            bad = numbers.isna() | (numbers % 1 != 0) | (numbers.abs() > _LARGEST)
            table = self.without(table, bad, name, "a whole number")
            table = table.assign(**{name: numbers[~bad].astype("int64")})
        return table

    def numbers(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """The column as float64, NaN where empty."""
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = numbers.isna() & table[name].notna()
        return self.without(table, bad, name, "a number or nothing").assign(**{name: numbers[~bad].astype("float64")})

    def without_repeats(self, table: pd.DataFrame) -> pd.DataFrame:
        """Leave out rows that repeat another one in every column that is needed; they are counted, no problems."""
        repeated = table.drop(columns=HELPERS).duplicated()
        if repeated.any():
            self.dropped[REPEATED] += int(repeated.sum())
        return table[~repeated]

    def unique(self, table: pd.DataFrame, key: str) -> pd.DataFrame:
        """The first row of each key; the others are problems."""
        return self.without(table, table[key].duplicated(), key, "each only once", f"duplicated {key}")

    def times(self, table: pd.DataFrame, name: str, required: bool) -> pd.DataFrame:
        """The column as datetime64, NaT where empty (a problem if it is required).

        A fraction of a second is read; a zone is left out, the time being taken as written.
        """
        times = pd.to_datetime(table[name], format="%Y-%m-%d %H:%M:%S", errors="coerce")
        others = table.loc[times.isna() & table[name].notna(), name].astype(str).str.strip()
        if len(others):
            parts = others.str.extract(_TIME)  # NaN where the pattern does not match
            read = pd.to_datetime(parts[0] + " " + parts[1], format="ISO8601", errors="coerce")
            times = times.astype("datetime64[us]")
            times[read.index] = read.astype("datetime64[us]")
        bad = times.isna() & (table[name].notna() | required)
        table = self.without(table, bad, name, "YYYY-MM-DD HH:MM:SS", "unparsable time")
        return table.assign(**{name: times[~bad]})

    def place(self, table: pd.DataFrame, row: int) -> str:
        """File and line of a row, for messages."""
        return f"{self.paths[table.at[row, FILE]]} line {table.at[row, LINE]}"

    def account(self, table: pd.DataFrame, flow: Flow) -> pd.DataFrame:
        """Write the stage "rows of <name>"; returns the table without the helpers."""
        flow.add(f"rows of {self.name}", self.rows_in, len(table), self.dropped)
        return table.drop(columns=HELPERS, errors="ignore")

    def _drop(self, table: pd.DataFrame, row: int, kind: str, what: str) -> None:
        self.problems.add(kind, f"{self.place(table, row)}: {what}")
        self.dropped[kind] += 1


def _read_file(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    header, lines, ragged = _scan(path)
    check_columns(path, header, columns)
    try:
        table = pd.read_csv(path, usecols=list(columns), index_col=False, low_memory=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise SourceDataError(f"{path}: cannot be read as a CSV table ({error}); download it again") from None
    if len(table) != len(lines):
        raise SourceDataError(f"{path}: cannot be read as a CSV table (a quote that does not end, or a line of blanks);"
                              " download it again")  # fmt: skip
    for name in table:
        if pd.api.types.infer_dtype(table[name], skipna=True) == "boolean":  # True is no number, and no id
            table[name] = table[name].map(str, na_action="ignore").astype(object)
    return table.assign(**{LINE: lines, RAGGED: pd.Series(ragged, dtype=object)})


def _scan(path: Path) -> tuple[list[str], np.ndarray, dict[int, str]]:
    """Header, the line of each row, and row → what is wrong with its length.

    The fast parser pads short rows and cuts long ones without a word, so that a lost or an unquoted comma would shift
    values.
    """
    rows = read_csv(path, SourceDataError)
    _, header = next(rows, (1, []))
    lines, ragged = [], {}
    for line, row in rows:
        if len(row) != len(header):
            ragged[len(lines)] = f"{len(row)} cells, the header has {len(header)}"
        lines.append(line)
    return header, np.array(lines, dtype=np.int64), ragged


def check_columns(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    """Raises :class:`SourceDataError` where a needed column is absent."""
    absent = [c for c in needed if c not in header]
    if absent:
        hint = " (the separator must be a comma)" if len(header) == 1 else ""
        raise SourceDataError(f"{path}: no column {', '.join(absent)}; it has {', '.join(header) or 'none'}{hint}")


def _value(table: pd.DataFrame, row: int, name: str) -> str:
    """A cell as people write it."""
    value = table.at[row, name]
    return repr(value.item() if hasattr(value, "item") else value)
