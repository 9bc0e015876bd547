"""The four source tables: each comes out as a frame with fixed columns and types, and every row is accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mdf_detectron.data.mimic.problems import Problems
from mdf_detectron.data.mimic.source_table import SourceTable
from mdf_detectron.data.prepared_folder import Flow

VITAL_COLUMNS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain", "acuity")


def read_patients(paths: Sequence[Path], problems: Problems, flow: Flow) -> pd.DataFrame:
    """subject_id (int64, unique), gender ("F", "M" or None), anchor_age and anchor_year (float64)."""
    source = SourceTable("the table of patients", paths, problems)
    table = source.read(["subject_id", "gender", "anchor_age", "anchor_year"])
    table = source.unique(source.integers(table, ["subject_id"]), "subject_id")
    for column in ("anchor_age", "anchor_year"):
        table = source.numbers(table, column)
    gender = table["gender"].astype("string").str.strip()
    table = source.without(table, gender.notna() & ~gender.isin(["F", "M"]), "gender", "'F', 'M' or nothing")
    table = table.assign(gender=gender.loc[table.index].astype(object).where(gender.notna(), None))
    return source.account(table, flow)


def read_stays(paths: Sequence[Path], problems: Problems, flow: Flow) -> pd.DataFrame:
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


def read_triage(paths: Sequence[Path], stays: pd.DataFrame, problems: Problems, flow: Flow) -> pd.DataFrame:
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


def read_films(paths: Sequence[Path], problems: Problems, flow: Flow) -> pd.DataFrame:
    """dicom_id (str, unique), subject_id, study_id (int64), view (str, "" where unknown), time (datetime64).

    ``StudyTime`` is HHMMSS.fff that lost its leading zeros as a number; 0.0 is midnight.
    """
    source = SourceTable("the table of films", paths, problems)
    table = source.read(["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"])
    table = source.integers(table, ["subject_id", "study_id"])
    table = source.without(table, table["dicom_id"].isna(), "dicom_id", "a film's name")
    table = source.unique(table, "dicom_id")
    time = study_times(table["StudyDate"], table["StudyTime"])
    table = source.without(table.assign(time=time), time.isna(), ("StudyDate", "StudyTime"),
                           "yyyymmdd and hhmmss.fff", "unparsable time")  # fmt: skip
    table["view"] = table["ViewPosition"].astype(object).where(table["ViewPosition"].notna(), "")
    return source.account(table, flow)[["dicom_id", "subject_id", "study_id", "view", "time"]]


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
