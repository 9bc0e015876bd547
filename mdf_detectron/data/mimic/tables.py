"""Reading and checking the four source tables: each comes out as a frame with fixed columns and types.

Columns that are not needed are ignored, whatever they hold.  Tables may be gzipped or plain, with LF or CRLF.
A broken row is named by file, line and value; it stops the preparation or is left out (see ``Problems``).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mdf_detectron.data.mimic.problems import Problems
from mdf_detectron.errors import SourceDataError

VITAL_COLUMNS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain", "acuity")

LINE = "_line"
"""Line of a row in its file (the header is line 1)."""
FILE = "_file"
"""Number of a row's file among those that were read."""


def read_patients(paths: Sequence[Path], problems: Problems) -> pd.DataFrame:
    """subject_id (int64, unique), gender ("F", "M" or NaN), anchor_age and anchor_year (float64)."""
    table = _read(paths, ["subject_id", "gender", "anchor_age", "anchor_year"], problems)
    table = _integers(table, ["subject_id"], paths, problems)
    table = _unique(table, "subject_id", paths, problems)
    for column in ("anchor_age", "anchor_year"):
        table = _numbers(table, column, paths, problems)
    gender = table["gender"].astype("string").str.strip()
    bad = gender.notna() & ~gender.isin(["F", "M"])
    table = _report_rows(table, bad, "gender", "'F', 'M' or nothing", paths, problems)
    return table.assign(gender=gender.loc[table.index].astype(object).where(gender.notna(), None)).drop(columns=_HELP)


def read_stays(paths: Sequence[Path], problems: Problems) -> pd.DataFrame:
    """subject_id, stay_id (int64, unique), intime, outtime (datetime64, outtime NaT where unknown).

    A departure before the arrival is a problem; skipped, it counts as unknown.
    """
    table = _read(paths, ["subject_id", "stay_id", "intime", "outtime"], problems)
    table = _integers(table, ["subject_id", "stay_id"], paths, problems)
    table = _unique(table, "stay_id", paths, problems)
    table = _times(table, "intime", paths, problems, required=True)
    table = _times(table, "outtime", paths, problems, required=False)
    wrong = table["outtime"] < table["intime"]
    for row in table.index[wrong]:
        times = f"outtime {table.at[row, 'outtime']} lies before intime {table.at[row, 'intime']}"
        problems.add("visit that ends before it begins", f"{_place(table, row, paths)}: {times}")
    return table.assign(outtime=table["outtime"].mask(wrong)).drop(columns=_HELP)


def read_triage(paths: Sequence[Path], stays: pd.DataFrame, problems: Problems) -> pd.DataFrame:
    """stay_id (int64, unique) and :data:`VITAL_COLUMNS` as they stand: numbers, or text where a column has some."""
    table = _read(paths, ["stay_id", *VITAL_COLUMNS], problems)
    table = _integers(table, ["stay_id"], paths, problems)
    table = _unique(table, "stay_id", paths, problems)
    unknown = ~table["stay_id"].isin(stays["stay_id"])
    table = _report_rows(table, unknown, "stay_id", "a stay_id of the table of visits", paths, problems,
                         kind="triage row of an unknown visit")  # fmt: skip
    return table.drop(columns=_HELP)


def read_films(paths: Sequence[Path], problems: Problems) -> pd.DataFrame:
    """dicom_id (str, unique), subject_id, study_id (int64), view (str, "" where unknown), time (datetime64).

    ``StudyTime`` is HHMMSS.fff that lost its leading zeros as a number; 0.0 is midnight.
    """
    columns = ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"]
    table = _read(paths, columns, problems)
    table = _integers(table, ["subject_id", "study_id"], paths, problems)
    table = _unique(table, "dicom_id", paths, problems)
    time = study_times(table["StudyDate"], table["StudyTime"])
    table = _report_rows(table.assign(time=time), time.isna(), ("StudyDate", "StudyTime"),
                         "yyyymmdd and hhmmss.fff", paths, problems, kind="unparsable time")  # fmt: skip
    table["view"] = table["ViewPosition"].astype(object).where(table["ViewPosition"].notna(), "")
    return table[["dicom_id", "subject_id", "study_id", "view", "time"]]


def study_times(dates: pd.Series, times: pd.Series) -> pd.Series:
    """Dates (yyyymmdd) and clock times (hhmmss.fff as a number) → datetime64, NaT where either is impossible."""
    date = pd.to_numeric(dates, errors="coerce")
    clock = pd.to_numeric(times, errors="coerce")
    day = pd.to_datetime(date.astype("Int64").astype("string"), format="%Y%m%d", errors="coerce") if len(date) else date
    milliseconds = np.rint(clock * 1000)
    hours, rest = np.divmod(milliseconds, 10_000_000)
    minutes, seconds = np.divmod(rest, 100_000)
    possible = (hours >= 0) & (hours < 24) & (minutes < 60) & (seconds < 60_000)
    offset = (hours * 3_600_000 + minutes * 60_000 + seconds).where(possible)
    return pd.to_datetime(day) + pd.to_timedelta(offset, unit="ms")


_HELP = [LINE, FILE]


def _read(paths: Sequence[Path], columns: list[str], problems: Problems) -> pd.DataFrame:
    tables = []
    for number, path in enumerate(paths):
        present = _header(path)
        absent = [c for c in columns if c not in present]
        if absent:
            hint = " (the separator must be a comma)" if len(present) == 1 else ""
            raise SourceDataError(f"{path}: no column {', '.join(absent)}; it has {', '.join(present)}{hint}")
        try:
            table = pd.read_csv(path, usecols=columns, low_memory=False, encoding="utf-8-sig")
        except (pd.errors.ParserError, UnicodeDecodeError, EOFError, gzip.BadGzipFile, OSError) as error:
            raise SourceDataError(f"{path}: cannot be read as a CSV table ({error}); download it again") from None
        tables.append(table.assign(**{LINE: np.arange(2, len(table) + 2), FILE: number}))
    table = tables[0] if len(tables) == 1 else pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    return table[[*columns, *_HELP]]


def _header(path: Path) -> list[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SourceDataError(f"{path}: cannot be read ({error}); download it again") from None


def _place(table: pd.DataFrame, row, paths: Sequence[Path]) -> str:
    return f"{paths[table.at[row, FILE]]} line {table.at[row, LINE]}"


def _value(table: pd.DataFrame, row, name: str) -> str:
    """A cell as people write it."""
    value = table.at[row, name]
    return repr(value.item() if hasattr(value, "item") else value)


def _report_rows(
    table: pd.DataFrame,
    bad: pd.Series,
    columns: str | Sequence[str],
    expected: str,
    paths: Sequence[Path],
    problems: Problems,
    kind: str | None = None,
) -> pd.DataFrame:
    """The table without the bad rows, each of which was a problem."""
    names = [columns] if isinstance(columns, str) else list(columns)
    for row in table.index[bad]:
        values = ", ".join(f"{name} {_value(table, row, name)}" for name in names)
        problems.add(kind or f"unusable {names[0]}", f"{_place(table, row, paths)}: {values}; expected {expected}")
    return table[~bad]


def _integers(table: pd.DataFrame, names: list[str], paths: Sequence[Path], problems: Problems) -> pd.DataFrame:
    for name in names:
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = numbers.isna() | (numbers % 1 != 0)
        table = _report_rows(table, bad, name, "a whole number", paths, problems)
        table = table.assign(**{name: numbers[~bad].astype("int64")})
    return table


def _numbers(table: pd.DataFrame, name: str, paths: Sequence[Path], problems: Problems) -> pd.DataFrame:
    numbers = pd.to_numeric(table[name], errors="coerce")
    bad = numbers.isna() & table[name].notna()
    return _report_rows(table, bad, name, "a number or nothing", paths, problems).assign(
        **{name: numbers[~bad].astype("float64")}
    )


def _unique(table: pd.DataFrame, key: str, paths: Sequence[Path], problems: Problems) -> pd.DataFrame:
    return _report_rows(table, table[key].duplicated(), key, "each only once", paths, problems, f"duplicated {key}")


def _times(table: pd.DataFrame, name: str, paths: Sequence[Path], problems: Problems, required: bool) -> pd.DataFrame:
    times = pd.to_datetime(table[name], format="%Y-%m-%d %H:%M:%S", errors="coerce")
    bad = times.isna() & (table[name].notna() | required)
    table = _report_rows(table, bad, name, "YYYY-MM-DD HH:MM:SS", paths, problems, kind="unparsable time")
    return table.assign(**{name: times[~bad]})
