"""Read the tables of patients, emergency visits, triage values and images; match images to visits.

Every broken row is reported and counted. An image belongs to the visit during which it was taken, else to the
latest one that ended shortly before. It never belongs to a visit that begins after it: triage values of that visit
leak the future.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.table import read_table
from mdf_detectron.data.sources.kit.values import is_empty
from mdf_detectron.errors import SourceDataError

VITAL_COLUMNS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain", "acuity")

INSIDE, INSIDE_SEVERAL, WITHIN_WINDOW = "inside a visit", "inside several visits, the latest taken", "within the window"
MATCHED = (INSIDE, INSIDE_SEVERAL, WITHIN_WINDOW)
NO_VISIT, BEFORE_ARRIVAL, AFTER_WINDOW, NO_DEPARTURE = (
    "patient without a visit",
    "before the first arrival",
    "later than the window after every departure",
    "only visits without a departure time",
)
UNMATCHED = (NO_VISIT, BEFORE_ARRIVAL, AFTER_WINDOW, NO_DEPARTURE)

LINE, FILE = "_line", "_file"
"""Columns with a row's line in its file (the header is line 1) and the number of its file."""

REPEATED, UNUSABLE_FILE = "repeats another row", "unusable file"

_LARGEST = 2**53
"""Larger whole numbers are not exact in float64."""

_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,6})?)\d*(?:Z|[+-]\d\d:?\d\d)?$")


class SourceTable:
    """Files of one kind as one frame; a broken row stops the preparation or is left out and counted.

    If there are several files (one per patient), an unusable file is only a problem. ``name`` is for the flow.
    """

    def __init__(self, name: str, paths: Sequence[Path], problems: ProblemList) -> None:
        self.name, self.paths, self.problems = name, list(paths), problems
        self.rows_in, self.dropped = 0, Counter()

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read all rows: the named columns as text (None where empty), :data:`LINE` and :data:`FILE`."""
        frames = []
        for number, path in enumerate(self.paths):
            try:
                table = read_table(path, self.problems, columns, only=True, may_be_empty=True)
            except SourceDataError as error:
                if len(self.paths) == 1:
                    raise
                self.problems.add(UNUSABLE_FILE, str(error))
                continue
            self.rows_in += len(table.rows) + sum(table.dropped.values())
            self.dropped.update(table.dropped)
            data = {name: pd.Series([_filled(row[name]) for row in table.rows], dtype=object) for name in columns}
            frames.append(pd.DataFrame({**data, LINE: table.lines, FILE: number}))
        if not frames:
            raise SourceDataError(f"none of {len(self.paths)} files of the {self.name} can be used, "
                                  f"{self.paths[0]} is the first; download them again")  # fmt: skip
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)

    def without(
        self, table: pd.DataFrame, bad: pd.Series, columns: str | Sequence[str], expected: str, kind: str | None = None
    ) -> pd.DataFrame:
        """Drop the bad rows and add a problem of ``kind`` for each."""
        names = [columns] if isinstance(columns, str) else list(columns)
        kind = kind or f"unusable {names[0]}"
        for row in table.index[bad]:
            values = ", ".join(f"{name} {_shown(table.at[row, name])}" for name in names)
            self.problems.add(kind, f"{self.place(table, row)}: {values}; expected {expected}")
            self.dropped[kind] += 1
        return table[~bad]

    def integers(self, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Convert columns to int64; drop rows with anything else."""
        for name in names:
            numbers = pd.to_numeric(table[name], errors="coerce")
            bad = numbers.isna() | (numbers % 1 != 0) | (numbers.abs() > _LARGEST)
            table = self.without(table, bad, name, "a whole number")
            table = table.assign(**{name: numbers[~bad].astype("int64")})
        return table

    def numbers(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Convert a column to float64, NaN where empty; drop rows with anything else."""
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = numbers.isna() & table[name].notna()
        return self.without(table, bad, name, "a number or nothing").assign(**{name: numbers[~bad].astype("float64")})

    def without_repeats(self, table: pd.DataFrame) -> pd.DataFrame:
        """Drop and count rows that repeat another row in every needed column."""
        repeated = table.drop(columns=[LINE, FILE]).duplicated()
        self.dropped[REPEATED] += int(repeated.sum())
        return table[~repeated]

    def unique(self, table: pd.DataFrame, key: str) -> pd.DataFrame:
        """Keep the first row of each key; the others are problems."""
        return self.without(table, table[key].duplicated(), key, "each only once", f"duplicated {key}")

    def times(self, table: pd.DataFrame, name: str, required: bool) -> pd.DataFrame:
        """Convert a column to datetime64, NaT where empty (a problem if required).

        Fractions of a second are kept; time zones are ignored.
        """
        times = pd.to_datetime(table[name], format="%Y-%m-%d %H:%M:%S", errors="coerce")
        others = table.loc[times.isna() & table[name].notna(), name].astype(str).str.strip()
        if len(others):
            parts = others.str.extract(_TIME)  # NaN if the pattern does not match
            read = pd.to_datetime(parts[0] + " " + parts[1], format="ISO8601", errors="coerce")
            times = times.astype("datetime64[us]")
            times[read.index] = read.astype("datetime64[us]")
        bad = times.isna() & (table[name].notna() | required)
        table = self.without(table, bad, name, "YYYY-MM-DD HH:MM:SS", "unparsable time")
        return table.assign(**{name: times[~bad]})

    def place(self, table: pd.DataFrame, row: int) -> str:
        return f"{self.paths[table.at[row, FILE]]} line {table.at[row, LINE]}"

    def account(self, table: pd.DataFrame, flow: Flow) -> pd.DataFrame:
        """Add the stage "rows of <name>"; return the table without line and file."""
        flow.add(f"rows of {self.name}", self.rows_in, len(table), self.dropped)
        return table.drop(columns=[LINE, FILE])


def _filled(text: str) -> str | None:
    """Return a value, or None if empty; the check of the first digit is a shortcut for most values."""
    return text if text[:1].isdigit() or not is_empty(text) else None


def _shown(value: object) -> str:
    return "''" if value is None else repr(value.item() if hasattr(value, "item") else value)


def read_patients(paths: Sequence[Path], problems: ProblemList, flow: Flow) -> pd.DataFrame:
    """Read subject_id (int64, unique), gender ("F", "M" or None), anchor_age and anchor_year (float64)."""
    source = SourceTable("the table of patients", paths, problems)
    table = source.read(["subject_id", "gender", "anchor_age", "anchor_year"])
    table = source.unique(source.without_repeats(source.integers(table, ["subject_id"])), "subject_id")
    for column in ("anchor_age", "anchor_year"):
        table = source.numbers(table, column)
        table = source.without(table, table[column] < 0, column, "a number from 0 on, or nothing")
    gender = table["gender"].astype("string").str.strip()
    table = source.without(table, gender.notna() & ~gender.isin(["F", "M"]), "gender", "'F', 'M' or nothing")
    table = table.assign(gender=gender.loc[table.index].astype(object).where(gender.notna(), None))
    return source.account(table, flow)


def read_stays(paths: Sequence[Path], problems: ProblemList, flow: Flow) -> pd.DataFrame:
    """Read subject_id, stay_id (int64, unique), intime, outtime (datetime64, outtime NaT if unknown).

    A departure before the arrival is a problem; if skipped, it counts as unknown.
    """
    source = SourceTable("the table of visits", paths, problems)
    table = source.read(["subject_id", "stay_id", "intime", "outtime"])
    table = source.unique(source.integers(table, ["subject_id", "stay_id"]), "stay_id")
    table = source.times(table, "intime", required=True)
    table = source.times(table, "outtime", required=False)
    wrong = table["outtime"] < table["intime"]
    for row in table.index[wrong]:
        times = f"outtime {table.at[row, 'outtime']} lies before intime {table.at[row, 'intime']}"
        problems.add("visit that ends before it begins", f"{source.place(table, row)}: {times}")
    return source.account(table.assign(outtime=table["outtime"].mask(wrong)), flow)


def read_triage(paths: Sequence[Path], stays: pd.DataFrame, problems: ProblemList, flow: Flow) -> pd.DataFrame:
    """Read stay_id (int64, unique) and :data:`VITAL_COLUMNS` (text, None where empty).

    A row must match a visit of ``stays`` and its patient.
    """
    source = SourceTable("the table of triage", paths, problems)
    table = source.read(["subject_id", "stay_id", *VITAL_COLUMNS])
    table = source.unique(source.integers(table, ["subject_id", "stay_id"]), "stay_id")
    unknown = ~table["stay_id"].isin(stays["stay_id"])
    table = source.without(table, unknown, "stay_id", "a stay_id of the table of visits",
                           "triage row of an unknown visit")  # fmt: skip
    owner = table["stay_id"].map(stays.set_index("stay_id")["subject_id"])
    table = source.without(table, owner != table["subject_id"], ("subject_id", "stay_id"), "the visit's own patient",
                           "triage row of another patient")  # fmt: skip
    return source.account(table.drop(columns="subject_id"), flow)


def read_radiographs(paths: Sequence[Path], problems: ProblemList, flow: Flow) -> pd.DataFrame:
    """Read dicom_id (str, unique), subject_id, study_id (int64), view (str, "" if unknown), time (datetime64).

    ``StudyTime`` is HHMMSS.fff stored as a number without leading zeros; 0.0 is midnight.
    """
    source = SourceTable("the table of images", paths, problems)
    table = source.read(["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"])
    table = source.integers(table, ["subject_id", "study_id"])
    table = source.without(table, table["dicom_id"].isna(), "dicom_id", "an image's name")
    table = source.unique(table, "dicom_id")
    time = study_times(table["StudyDate"], table["StudyTime"])
    table = source.without(table.assign(time=time), time.isna(), ("StudyDate", "StudyTime"),
                           "yyyymmdd and hhmmss.fff", "unparsable time")  # fmt: skip
    table["view"] = table["ViewPosition"].astype(object).where(table["ViewPosition"].notna(), "")
    return source.account(table, flow)[["dicom_id", "subject_id", "study_id", "view", "time"]]


def study_times(dates: pd.Series, times: pd.Series) -> pd.Series:
    """Combine dates (yyyymmdd) and clock times (hhmmss.fff) to datetime64, NaT if either is invalid."""
    date = pd.to_numeric(dates, errors="coerce")
    date = date.where((date % 1 == 0) & (date.abs() < 1e9))  # fractions and infinite values are not dates
    clock = pd.to_numeric(times, errors="coerce")
    day = pd.to_datetime(date.astype("Int64").astype("string"), format="%Y%m%d", errors="coerce") if len(date) else date
    milliseconds = np.rint(clock * 1000)
    hours, rest = np.divmod(milliseconds, 10_000_000)
    minutes, seconds = np.divmod(rest, 100_000)
    possible = (hours >= 0) & (hours < 24) & (minutes < 60) & (seconds < 60_000)
    offset = (hours * 3_600_000 + minutes * 60_000 + seconds).where(possible)
    return pd.to_datetime(day) + pd.to_timedelta(offset, unit="ms")


def match_visits(radiographs: pd.DataFrame, stays: pd.DataFrame, window_days: float) -> pd.DataFrame:
    """Find the visit of each image.

    ``inside``: intime < time < outtime; of several, the latest intime. Otherwise, with a window above 0:
    outtime ≤ time ≤ outtime + window, the latest outtime (then the latest intime). A visit with unknown departure
    matches only by the window, counted from its arrival: it cannot have ended earlier.

    Args:
        radiographs: frame with ``subject_id`` and ``time`` (datetime64).
        stays: ``subject_id``, ``stay_id``, ``intime``, ``outtime`` (NaT if unknown).
        window_days: days after the departure, ≥ 0; 0: only images inside a visit.

    Returns:
        Frame with the index of ``radiographs``: ``stay_id`` (Int64, NA if unmatched), ``intime`` (NaT if unmatched)
        and ``match`` (one of :data:`MATCHED` or :data:`UNMATCHED`).
    """
    if not window_days >= 0:
        raise ValueError(f"the window must be at least 0 days, got {window_days}")
    pairs = _pairs(radiographs, stays)
    inside = pairs[pairs["time"] < pairs["outtime"]]
    several = inside["image"].duplicated(keep=False)
    inside = inside.assign(match=several.map({False: INSIDE, True: INSIDE_SEVERAL}))
    inside = inside.sort_values(["intime", "stay_id"], kind="stable").drop_duplicates("image", keep="last")
    after = _after(pairs, window_days)
    after = after[~after["image"].isin(inside["image"])].assign(match=WITHIN_WINDOW)
    chosen = pd.concat([inside, after]).set_index("image")[["stay_id", "intime", "match"]]
    matched = chosen.reindex(range(len(radiographs)))
    matched["match"] = (
        matched["match"].astype(object).where(matched["match"].notna(), _why_not(radiographs, stays, pairs))
    )
    return matched.astype({"stay_id": "Int64"}).set_axis(radiographs.index)


def _pairs(radiographs: pd.DataFrame, stays: pd.DataFrame) -> pd.DataFrame:
    """Pair each image (by position) with each visit of its patient that begins before it."""
    left = pd.DataFrame(
        {
            "image": range(len(radiographs)),
            "subject_id": radiographs["subject_id"].to_numpy(),
            "time": radiographs["time"].to_numpy(),
        }
    )
    relevant = stays[stays["subject_id"].isin(left["subject_id"])][["subject_id", "stay_id", "intime", "outtime"]]
    pairs = left.merge(relevant, on="subject_id")
    return pairs[pairs["intime"] < pairs["time"]]


def _after(pairs: pd.DataFrame, window_days: float) -> pd.DataFrame:
    end = pairs["outtime"].fillna(pairs["intime"])
    late = pairs["time"] - end
    within = (late >= pd.Timedelta(0)) & (late <= pd.Timedelta(days=window_days)) & (window_days > 0)
    near = pairs[within].assign(end=end[within])
    return near.sort_values(["end", "intime", "stay_id"], kind="stable").drop_duplicates("image", keep="last")


def _why_not(radiographs: pd.DataFrame, stays: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Return the reason for each image as if it were unmatched."""
    begun = pairs.groupby("image")["outtime"].count()
    visited = radiographs["subject_id"].isin(stays["subject_id"])
    departures = begun.reindex(range(len(radiographs))).to_list()
    return [
        NO_VISIT if not has else BEFORE_ARRIVAL if known != known else AFTER_WINDOW if known else NO_DEPARTURE
        for has, known in zip(visited, departures, strict=True)
    ]
