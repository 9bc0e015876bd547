"""Clean triage values and make the clinical record of each image; count every change by column and reason."""

import re

import pandas as pd

from mdf_detectron.data.schema import ClinicalColumn
from mdf_detectron.data.sources.kit.account import ValueLog
from mdf_detectron.data.sources.kit.values import outside
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.sources.mimic.tables import VITAL_COLUMNS

CELSIUS = (25.0, 45.0)
"""Temperatures in this range are read as °C: no living patient has them in °F."""

EMPTY, NOT_A_NUMBER, NOT_A_LEVEL = "empty", "not a number", "not a whole level"
FROM_CELSIUS, SATURATION_CUT = "°C converted to °F", "101 to 105 read as 100"
PRESSURES = "diastolic not below systolic: both removed"
PAIN_MEAN, PAIN_OF_TEN = "'a-b' read as its mean", "'n/10' read as n"

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_RANGE = re.compile(rf"{_NUMBER}\s*(?:-|–|to)\s*{_NUMBER}(?:\s*/\s*10)?")
_OF_TEN = re.compile(rf"{_NUMBER}\s*(?:/|out of)\s*10")

AGE = next(c for c in mimic_clinical_schema().numeric if c.name == "age")


def clean_triage(triage: pd.DataFrame, raw: bool = False) -> tuple[pd.DataFrame, ValueLog]:
    """Clean triage values to °F, /min, %, mmHg, 0–10 and 1–5, float64, NaN where missing or removed; log changes.

    With ``raw``, only what is no number is removed. Other columns than
    :data:`~mdf_detectron.data.sources.mimic.tables.VITAL_COLUMNS` (numbers or text) are kept.
    """
    log, clean = ValueLog(), triage.copy()
    if raw:
        return clean.assign(**{column: _as_numbers(triage[column], log) for column in VITAL_COLUMNS}), log
    changes: list[tuple[str, str, pd.Series]] = []  # counted at the end, for values that are not removed
    for column in VITAL_COLUMNS:
        values = _pain(triage[column], log, changes) if column == "pain" else _as_numbers(triage[column], log)
        clean[column] = values
    celsius = clean["temperature"].between(*CELSIUS)
    changes.append(("temperature", FROM_CELSIUS, celsius))
    clean["temperature"] = clean["temperature"].mask(celsius, (clean["temperature"] * 1.8 + 32).round(2))
    cut = (clean["o2sat"] > 100) & (clean["o2sat"] <= 105)
    changes.append(("o2sat", SATURATION_CUT, cut))
    clean["o2sat"] = clean["o2sat"].mask(cut, 100.0)
    broken = clean["acuity"].notna() & (clean["acuity"] % 1 != 0)
    log.remove("acuity", NOT_A_LEVEL, count=broken.sum())
    clean["acuity"] = clean["acuity"].mask(broken)
    for column in mimic_clinical_schema().numeric:
        if column.name in VITAL_COLUMNS:
            clean[column.name] = _within(clean[column.name], column, log)
    swapped = clean["dbp"] >= clean["sbp"]
    for column in ("sbp", "dbp"):
        log.remove(column, PRESSURES, count=swapped.sum())
        clean[column] = clean[column].mask(swapped)
    for column, reason, rows in changes:
        log.change(column, reason, count=(rows & clean[column].notna()).sum())
    return clean, log


def _within(values: pd.Series, column: ClinicalColumn, log: ValueLog) -> pd.Series:
    bad = values.notna() & ~values.between(column.minimum, column.maximum)
    log.remove(column.name, outside(column), count=bad.sum())
    return values.mask(bad)


def _as_numbers(values: pd.Series, log: ValueLog) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    _count_missing(values, numbers, log)
    return numbers


def _count_missing(values: pd.Series, numbers: pd.Series, log: ValueLog) -> None:
    blank = values.isna()
    if not pd.api.types.is_numeric_dtype(values):
        blank |= values.astype("string").str.strip().eq("").fillna(True).astype(bool)
    log.remove(values.name, EMPTY, count=blank.sum())
    log.remove(values.name, NOT_A_NUMBER, count=(numbers.isna() & ~blank).sum())


def _pain(values: pd.Series, log: ValueLog, changes: list) -> pd.Series:
    if pd.api.types.is_numeric_dtype(values):
        return _as_numbers(values, log)
    text = values.astype("string").str.strip().str.lower()
    parsed = {raw: parse_pain(raw) for raw in text.dropna().unique()}  # many rows have few distinct spellings
    numbers = text.map({raw: number for raw, (number, _) in parsed.items()}).astype("float64")
    how = text.map({raw: reason for raw, (_, reason) in parsed.items()})
    changes += [("pain", reason, (how == reason).fillna(False).astype(bool)) for reason in (PAIN_MEAN, PAIN_OF_TEN)]
    _count_missing(values, numbers, log)
    return numbers


def parse_pain(text: str) -> tuple[float | None, str | None]:
    """Parse a pain score and how it was read: "5-6" → (5.5, …), "8/10" → (8, …); (None, None) if unreadable."""
    if re.fullmatch(_NUMBER, text):
        return float(text), None
    if match := _RANGE.fullmatch(text):
        return (float(match[1]) + float(match[2])) / 2, PAIN_MEAN
    if match := _OF_TEN.fullmatch(text):
        return float(match[1]), PAIN_OF_TEN
    return None, None


def add_clinical_values(
    readings: pd.DataFrame, patients: pd.DataFrame, triage: pd.DataFrame, cleaning: ValueLog
) -> pd.DataFrame:
    """Add the clinical record of each reading or image: triage of its ``stay_id``, age and gender of its patient."""
    rows = triage.set_index("stay_id")[list(VITAL_COLUMNS)]
    joined = readings.join(rows, on="stay_id").join(patients.set_index("subject_id"), on="subject_id")
    joined["triaged"] = joined["stay_id"].isin(rows.index)
    joined["known_patient"] = joined["subject_id"].isin(patients["subject_id"])
    age = age_at_study(joined["anchor_age"], joined["anchor_year"], joined["time"])
    kept = _within(age, AGE, cleaning)
    removed = age.notna() & kept.isna()
    return joined.assign(age=kept, age_removed=removed).drop(columns=["anchor_age", "anchor_year"])


def age_at_study(anchor_age: pd.Series, anchor_year: pd.Series, time: pd.Series) -> pd.Series:
    """Return age in years, anchor_age + (study year − anchor_year); NaN if any is unknown. 91 means over 89."""
    return anchor_age + (time.dt.year - anchor_year)
