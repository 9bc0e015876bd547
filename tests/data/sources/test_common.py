"""Dirty values, their account, and problems that are told all at once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mdf_detectron.data.schema import ClinicalColumn, TableRecipe
from mdf_detectron.data.sources.kit.account import ProblemList, ValueLog
from mdf_detectron.data.sources.kit.values import clean_value, parse_age, parse_number, write_number
from mdf_detectron.errors import SourceDataError

AGE = ClinicalColumn("age", "numeric", "years", 0, 120)
TEMPERATURE = ClinicalColumn("temperature", "numeric", "°C", 20, 47)
SEX = ClinicalColumn("sex", "categorical", vocabulary=("F", "M"))


@pytest.mark.parametrize("text, comma, expected", [
    ("4\u202f100", False, 4100), ("12'500.5", False, 12500.5), ("1,234.5", False, 1234.5), ("7,250,000", False, 7.25e6),
    ("7,250", False, None), ("1 2345", False, None), ("\u22120.4", False, -0.4), ("12 mg/l", False, None),
    (3.0, True, 3), (10**400, False, None), ("38.1", False, 38.1), (" 38 ", False, 38),
    ("1e3", False, 1000), (".5", False, 0.5), (np.float64(2.5), False, 2.5),
    ("38,1", True, 38.1), ("1.234,5", True, 1234.5), ("38.1", True, 38.1), ("<0.5", False, 0.5), ("> 100", False, 100),
    ("38,1", False, None), ("abc", False, None), ("1 2", False, None), (True, False, None), (np.True_, False, None),
    ("yes", False, None), ("inf", False, None), (math.inf, False, None), ("1e999", False, None), ("0x10", False, None),
])  # fmt: skip
def test_numbers(text, comma, expected):
    assert parse_number(text, comma)[0] == expected


@pytest.mark.parametrize("text, options, expected", [
    ("7,250", {"thousands": ","}, 7250), ("4,5", {"thousands": ","}, None), ("1.250", {"decimal_comma": True}, 1.25),
    ("1.250", {"decimal_comma": True, "thousands": "."}, 1250),
    ("< 0,5 mg/L", {"decimal_comma": True, "unit": "mg/l"}, 0.5),
    ("93 %", {"unit": "%"}, 93), ("7.2 x10^9/L", {"unit": "10^9/l"}, 7.2), ("38.5°C", {"unit": "°C"}, 38.5),
    ("0.745", {"decimal_comma": True, "thousands": "."}, 0.745), ("012 500", {}, None),
    ("120/80", {"unit": "mmHg"}, None), ("2b", {"unit": "b"}, None), ("7 mg/dl", {"unit": "mg/l"}, None),
])  # fmt: skip
def test_numbers_with_thousands_and_units(text, options, expected):
    assert parse_number(text, **options)[0] == expected


@pytest.mark.parametrize("recipe", [{}, {"thousands": ","}, {"decimal_comma": True},
                                    {"decimal_comma": True, "thousands": "."}])  # fmt: skip
@pytest.mark.parametrize("number", [0.745, 1.745, -12.476, 800, 1234.5, 1e-5, 1.5e-7, 2.5e9])
def test_a_number_is_read_as_it_was_written(number, recipe):
    assert parse_number(write_number(number, TableRecipe(**recipe)), **recipe)[0] == number


@pytest.mark.parametrize("text, years", [
    ("> 89", 89), (">=85", 85), ("90+", 90), ("≥ 88 years", 88),
    ("062Y", 62), ("62", 62), (62, 62), ("62.0", 62), ("62 years", 62), ("62y", 62), ("062y old", 62), ("62 J", 62),
    ("018M", 1.5), ("010D", 0.03), ("026W", 0.5), ("-3", -3), ("abc", None), (True, None), ("Y", None), ("inf", None),
])  # fmt: skip
def test_ages_in_every_spelling(text, years):
    assert parse_age(text)[0] == years


@pytest.mark.parametrize("raw, column, options, value, reason", [
    ("f", SEX, {}, "F", "another spelling"), ("Female", SEX, {}, "F", "another spelling"),
    ("F ", SEX, {}, "F", "another spelling"), ("x", SEX, {}, None, "not in the vocabulary"),
    ("1", SEX, {"mapping": {"1": "M"}}, "M", "mapped by the schema"),
    (1.0, SEX, {"mapping": {"1": "M"}}, "M", "mapped by the schema"),
    ("weiblich", SEX, {}, "F", "another spelling"), ("None", SEX, {"vocabulary": ("None", "F")}, "None", None),
    (None, SEX, {"mapping": {"none": "M"}}, None, "empty"), ("#DIV/0!", AGE, {}, None, "empty"),
    ("<NA>", SEX, {}, None, "empty"), ("#NV", SEX, {}, None, "empty"), ("#7", SEX, {"vocabulary": ("#7",)}, "#7", None),
    ("#WERT!", AGE, {}, None, "empty"), ("99.0", AGE, {"missing": (99,)}, None, "a code for a missing value"),
    ("x", SEX, {"missing": ("X",)}, None, "a code for a missing value"), ("", SEX, {}, None, "empty"),
    ("N/A", AGE, {}, None, "empty"), (float("nan"), AGE, {}, None, "empty"),
    ("155", AGE, {}, None, "outside 0 to 120 years"), ("-1", AGE, {}, None, "outside 0 to 120 years"),
    ("062Y", AGE, {}, 62.0, "an age with its unit"), ("62", AGE, {}, 62.0, None),
    ("38,5", TEMPERATURE, {}, None, "a decimal comma (--decimal-comma reads it)"), ("M", SEX, {}, "M", None),
])  # fmt: skip
def test_every_change_has_a_reason(raw, column, options, value, reason):
    log = ValueLog()
    assert clean_value(raw, replace(column, **options), log) == value
    reasons = [r[2] for r in log.rows()]
    assert reasons == ([] if reason is None else [reason])
    assert sum(log.removed.values()) == (value is None)


def test_a_code_that_a_table_holds_as_a_float_is_its_category():
    column = ClinicalColumn("grade", "categorical", vocabulary=("1", "2"))
    assert clean_value(2.0, column, ValueLog()) == "2"


def test_problems_are_told_together_or_counted():
    problems = ProblemList()
    problems.stop_if_any()
    problems.add("bad", "t.csv line 3: Age 'x'")
    with pytest.raises(SourceDataError, match=r"^t\.csv line 3: Age 'x' \(--on-error skip"):
        problems.stop_if_any()
    for line in range(30):
        problems.add("worse", f"t.csv line {line}: Sex '?'")
    with pytest.raises(SourceDataError) as caught:
        problems.stop_if_any()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("31 problems") and "  t.csv line 3: Age 'x'" in lines and len(lines) == 1 + 1 + 20 + 1
    skipped = ProblemList(skip=True, show_values=True)
    skipped.add("bad", "x")
    skipped.stop_if_any()
    assert skipped.as_dict() == {"bad": {"count": 1, "first": ["x"]}}
    skipped.show_values = False  # messages name patients and values
    assert skipped.as_dict() == {"bad": {"count": 1}}
