"""Read patients, emergency visits, triage values and studies, and find the visit that a study belongs to.

A study belongs to the visit it was taken in, else to the latest one that ended shortly before. A visit that begins
after the study is never its visit, because its triage values lie in the study's future.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.values import ProblemList
from mdf_detectron.data.sources.mimic.source_table import SourceTable

VITAL_COLUMNS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain", "acuity")


def read_patients(paths: Sequence[Path], problems: ProblemList, flow: Flow) -> pd.DataFrame:
    """subject_id (int64, unique), gender ("F", "M" or None), anchor_age and anchor_year (float64)."""
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
    """subject_id, stay_id (int64, unique), intime, outtime (datetime64, outtime NaT where unknown).

    A departure before the arrival is a problem; skipped, it counts as unknown.
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
    """stay_id (int64, unique) and :data:`VITAL_COLUMNS` as they stand: numbers, or text where a column has some.

    A row belongs to a visit of ``stays``, and to the same patient.
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
    """dicom_id (str, unique), subject_id, study_id (int64), view (str, "" where unknown), time (datetime64).

    ``StudyTime`` is HHMMSS.fff that lost its leading zeros as a number; 0.0 is midnight.
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
    """Dates (yyyymmdd) and clock times (hhmmss.fff as a number) → datetime64, NaT where either is impossible."""
    date = pd.to_numeric(dates, errors="coerce")
    date = date.where((date % 1 == 0) & (date.abs() < 1e9))  # neither a fraction nor an infinite one is a day
    clock = pd.to_numeric(times, errors="coerce")
    day = pd.to_datetime(date.astype("Int64").astype("string"), format="%Y%m%d", errors="coerce") if len(date) else date
    milliseconds = np.rint(clock * 1000)
    hours, rest = np.divmod(milliseconds, 10_000_000)
    minutes, seconds = np.divmod(rest, 100_000)
    possible = (hours >= 0) & (hours < 24) & (minutes < 60) & (seconds < 60_000)
    offset = (hours * 3_600_000 + minutes * 60_000 + seconds).where(possible)
    return pd.to_datetime(day) + pd.to_timedelta(offset, unit="ms")


INSIDE, INSIDE_SEVERAL, WITHIN_WINDOW = "inside a visit", "inside several visits, the latest taken", "within the window"


MATCHED = (INSIDE, INSIDE_SEVERAL, WITHIN_WINDOW)


NO_VISIT, BEFORE_ARRIVAL, AFTER_WINDOW, NO_DEPARTURE = (
    "patient without a visit",
    "before the first arrival",
    "later than the window after every departure",
    "only visits without a departure time",
)


UNMATCHED = (NO_VISIT, BEFORE_ARRIVAL, AFTER_WINDOW, NO_DEPARTURE)


def match_visits(radiographs: pd.DataFrame, stays: pd.DataFrame, window_days: float) -> pd.DataFrame:
    """The visit of each image.

    ``inside``: intime < time < outtime; of several, the latest intime.  Otherwise, with a window above 0:
    outtime ≤ time ≤ outtime + window, the latest outtime (then the latest intime).  A visit whose departure is
    unknown can only match by the window, counted from its arrival: it cannot have ended earlier.

    Args:
        images: frame with ``subject_id`` and ``time`` (datetime64); its index is kept.
        stays: ``subject_id``, ``stay_id``, ``intime``, ``outtime`` (NaT where unknown).
        window_days: days after the departure; 0 takes only images inside a visit.

    Returns:
        Frame with the index of ``radiographs``: ``stay_id`` (Int64, NA unmatched), ``intime`` (NaT unmatched) and
        ``match`` (one of :data:`MATCHED` or :data:`UNMATCHED`).

    Raises:
        ValueError: a negative window.
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
    """Each image (by position) with each visit of its patient that begins before it."""
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
    """Reason of each image as if it were unmatched."""
    begun = pairs.groupby("image")["outtime"].count()
    visited = radiographs["subject_id"].isin(stays["subject_id"])
    departures = begun.reindex(range(len(radiographs))).to_list()
    return [
        NO_VISIT if not has else BEFORE_ARRIVAL if known != known else AFTER_WINDOW if known else NO_DEPARTURE
        for has, known in zip(visited, departures, strict=True)
    ]


def age_at_study(anchor_age: pd.Series, anchor_year: pd.Series, time: pd.Series) -> pd.Series:
    """Years: anchor_age + (study year − anchor_year); NaN where any is unknown.  91 stands for all over 89."""
    return anchor_age + (time.dt.year - anchor_year)
