"""Cleaning rules, each with its value by hand; the counts account for every cell."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdf_detectron.data.sources.mimic.cleaning import clean_triage
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.sources.mimic.tables import VITAL_COLUMNS, study_times

GOOD = {"temperature": 98.0, "heartrate": 80.0, "resprate": 16.0, "o2sat": 98.0, "sbp": 120.0, "dbp": 70.0,
        "pain": "2", "acuity": 3.0}  # fmt: skip


def clean_one(**values):
    row, log = clean_triage(pd.DataFrame([GOOD | values]))
    return {c: None if np.isnan(row[c].iloc[0]) else row[c].iloc[0] for c in VITAL_COLUMNS}, log


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [("temperature", 25.0, None), ("temperature", 26.7, 80.06), ("temperature", 45.0, 113.0),
     ("temperature", 45.1, None), ("temperature", 79.9, None), ("temperature", 80.0, 80.0),
     ("temperature", 113.1, None), ("heartrate", 19.0, None), ("heartrate", 250.0, 250.0), ("resprate", 61.0, None),
     ("resprate", 4.0, 4.0), ("o2sat", 49.0, None), ("o2sat", 105.0, 100.0), ("o2sat", 105.5, None),
     ("sbp", 301.0, None), ("dbp", 9.0, None), ("acuity", 2.5, None), ("acuity", 0.0, None), ("acuity", 5.0, 5.0),
     ("heartrate", "eighty", None), ("heartrate", " 82 ", 82.0), ("pain", "10", 10.0), ("pain", "11", None),
     ("pain", "4.5", 4.5), ("pain", " 7 / 10 ", 7.0), ("pain", "7 out of 10", 7.0), ("pain", "5 - 7", 6.0),
     ("pain", "15/10", None), ("pain", "-1", None), ("pain", "", None)],
)  # fmt: skip
def test_rule(column, value, expected):
    row, _ = clean_one(**{column: value})
    assert row[column] == expected


def test_pressures_are_compared_after_their_own_ranges():
    row, log = clean_one(sbp=310.0, dbp=120.0)
    assert row["sbp"] is None and row["dbp"] == 120.0
    assert log.as_dict() == {"changed": {}, "removed": {"sbp": {"outside 40 to 300 mmHg": 1}}}


def test_pain_column_of_numbers_only():
    frame = pd.DataFrame([GOOD | {"pain": p} for p in (3.0, np.nan, 12.0)])
    clean, log = clean_triage(frame)
    assert clean["pain"].tolist()[0] == 3 and clean["pain"].isna().tolist() == [False, True, True]
    assert log.as_dict()["removed"]["pain"] == {"empty": 1, "outside 0 to 10 0-10": 1}


cell = st.none() | st.floats(-50, 1200) | st.sampled_from(["", "unable", "5-6", "8/10", "37.2", "x"])


@settings(max_examples=100)
@given(rows=st.lists(st.tuples(*[cell] * len(VITAL_COLUMNS)), min_size=1, max_size=12))
def test_every_cell_is_kept_or_counted_and_legal(rows):
    clean, log = clean_triage(pd.DataFrame(rows, columns=list(VITAL_COLUMNS)))
    removed = log.as_dict()["removed"]
    for column in mimic_clinical_schema().numeric:
        if column.name in VITAL_COLUMNS:
            values = clean[column.name]
            assert len(rows) == values.notna().sum() + sum(removed.get(column.name, {}).values())
            assert values.dropna().between(column.minimum, column.maximum).all()
    both = clean[["sbp", "dbp"]].dropna()
    assert (both["dbp"] < both["sbp"]).all()


@pytest.mark.parametrize(
    ("clock", "expected"),
    [(0.0, "00:00:00"), (5.25, "00:00:05.250"), (523.5, "00:05:23.500"), (80556.875, "08:05:56.875"),
     (235959.999, "23:59:59.999"), (240000, None), (126000, None), (125960, None), (-1, None), ("x", None)],
)  # fmt: skip
def test_clock_time_gets_its_leading_zeros_back(clock, expected):
    time = study_times(pd.Series([21500110]), pd.Series([clock]))[0]
    assert (None if pd.isna(time) else time) == (None if expected is None else pd.Timestamp(f"2150-01-10 {expected}"))


def test_impossible_date():
    assert pd.isna(study_times(pd.Series([21501310, 21500230, "x"]), pd.Series([1.0, 1.0, 1.0]))).all()
