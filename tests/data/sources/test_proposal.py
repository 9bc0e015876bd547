"""What a proposed schema takes, leaves out and asks: ranges, units, codes, dates, identifiers and spellings."""

from __future__ import annotations

import numpy as np
import pytest

from mdf_detectron.data.schema import TableRecipe
from mdf_detectron.data.sources.kit.collection import ColumnSpec
from mdf_detectron.data.sources.own.proposal import propose
from mdf_detectron.data.sources.own.suspicions import mixed_units, near_names, wide_range


def proposed(source, values, name="x", **recipe):
    """Return the column of these values or None, its questions as one text, and why it is left out."""
    proposal = propose([ColumnSpec(source, name)], {name: list(values)}, TableRecipe(**recipe))
    column = proposal.columns[0] if proposal.columns else None
    return column, " ".join(proposal.questions[name]), proposal.left_out.get(name)


def spread(low, high, count=24, digits=1):
    return [f"{v:.{digits}f}" for v in np.linspace(low, high, count)]


@pytest.mark.parametrize("source, values, unit, limits, question", [
    ("CRP [mg/l]", spread(2, 60), "mg/l", (0, 1000), ""),  # 250 is sick, not wrong
    ("crp", spread(2, 60), "", (0, 1000), "mg/l or mg/dl"),
    ("Temperatur", spread(35, 41), "°C", (20, 47), "the unit is °C by name and values"),
    ("temp_f", spread(95, 104), "°F", (68, 117), "the unit is °F"),
    ("Leukozyten", [f"{v} G/l" for v in spread(3, 14)], "G/l", (0, 1000), ""),
    ("wbc", spread(3000, 14000, digits=0), "/μl", (0, 1_000_000), "the unit is /μl"),
    ("SpO2", [f"{v} %" for v in spread(80, 99, digits=0)], "%", (1.5, 100), ""),
    ("Kreatinin", spread(0.6, 3.4), "mg/dl", (0, 50), "mg/dl"),
    ("marker", spread(3, 61), "", (0, 1000), "write the possible range in a patient and its unit"),
    ("marker", spread(-3, 4), "", (-50, 50), "write the possible range"),
    ("wbc", [f"{v}%" for v in spread(20, 80)], "%", (0, 1000), "write the possible range"),  # not known of a share
    ("marker", [*spread(1, 2), "190"], "", (0, 2000), "far from all others, but kept: 190"),
    ("temp", [*spread(36, 40), "370"], "°C", (20, 47), "outside the range, and missing: 370"),
])  # fmt: skip
def test_ranges_are_what_is_possible_not_what_was_seen(source, values, unit, limits, question):
    column, asked, _ = proposed(source, values)
    assert (column.kind, column.unit, (column.minimum, column.maximum)) == ("numeric", unit, limits)
    assert question in asked and bool(question) == bool(asked)


@pytest.mark.parametrize("numbers, limits", [([0.03, 0.04], (0, 0.5)), ([7], (0, 100)), ([-1, 5], (-50, 50))])
def test_a_wide_range_is_a_number_that_a_person_writes(numbers, limits):
    assert wide_range(np.array(numbers, dtype=float)) == pytest.approx(limits)


@pytest.mark.parametrize("values, codes", [
    ([*spread(4, 13), "-7", "-7"], (-7,)), ([*spread(4, 13), "888", "888"], (888,)),
    ([*spread(4, 13), *["99.9"] * 2], (99.9,)),
    ([*spread(36, 40), *["0"] * 4], (0,)), ([*spread(4, 13), *["-8", "-9"] * 2], (-9, -8)),
    ([*spread(1, 300), *["0"] * 4], ()), ([*spread(4, 130), "99"], ()), ([*spread(-12, 13), "-9"], ()),
    ([str(v) for v in range(10)] * 3, ()),
])  # fmt: skip
def test_codes_stand_apart_and_repeat(values, codes):
    column, asked, _ = proposed("marker", values)
    assert column.missing == codes and ("taken as a code" in asked) == bool(codes)


@pytest.mark.parametrize("value", ["99", "888", "-9"])
def test_one_value_like_a_code_may_be_the_sickest_patients_and_is_kept(value):
    column, asked, _ = proposed("marker", [*range(1, 45), value])
    assert column.missing == () and column.minimum <= float(value) <= column.maximum
    assert f"but kept: {value}. An error, a code" in asked


@pytest.mark.parametrize("low, high, units", [
    (spread(36, 39), spread(97, 102), "°C and °F"),
    (spread(1.55, 1.95, digits=2), spread(156, 192), "m and cm"),
    (spread(0.88, 0.99, digits=2), spread(89, 99), "0.97 and 97 %"),
    (spread(4, 9), spread(80, 160), "mmol/l and mg/dl"),
    (["3.7", *spread(36, 39, 20)], [*spread(97, 102, 10), "999"], "°C and °F"), (["0.1"], spread(4, 9), None),
    (spread(2, 2.2), spread(5, 150), None), (["2"] * 9, ["5", "6", "7"] * 3, None),
    (spread(4, 9), spread(9.2, 20), None), (spread(4, 9), ["300"], None), (["0", "1"] * 9, ["10"], None),
])  # fmt: skip
def test_two_units_in_one_column_are_asked_about(low, high, units):
    text = mixed_units(np.array([float(v) for v in (*low, *high)]))
    assert text is None if units is None else units in text


@pytest.mark.parametrize("source, values, reason", [
    ("taken", range(43000, 43030, 2), "dates, as Excel counts days"),
    ("birth", range(12000, 30000, 999), "dates, as Excel"),
    ("wbc", range(12000, 30000, 999), None),
    ("day", ["20190531", "20190602", "20200101", "20200229", "20211231"], "dates, as 20190531"),
    ("day", [*range(20190501, 20190531), "99999999"], "dates, as 20190531"),
    ("day", [*range(20190501, 20190531), *[0] * 5], "dates, as 20190531"),
    ("taken", [*range(43000, 43030, 2), 99999], "dates, as Excel counts days"),
    ("acc", range(7120031, 7120431, 21), "an identifier?"),
    ("acc", [*range(7120031, 7120431, 21), 9999999, 9999999], "an identifier?"),
    ("nr", [f"{v:06d}" for v in range(91, 900, 55)], "an identifier?"),
    ("marker", ["3,250", "800", "4,125"], "(--thousands ,) or decimals (--decimal-comma)"),
    ("marker", ["3,2", "8", "4,125"], "--decimal-comma"),
    ("crp", ["12 mg/l", "1.4 mg/dl", "30 mg/l"], "numbers in several units (mg/l, mg/dl)"),
    ("Patient ID", [v % 9 for v in range(40)], "its name says that they are identifiers"),
    ("valid", [v % 9 for v in range(40)], None),
    ("doi", [f"10.{v}/abc.2020.{v}" for v in range(1000, 1020)], "free text"),
    ("age", [f"{v:03d}Y" for v in range(30, 60)], None), ("crp", ["3", "4"] * 3, None),
])  # fmt: skip
def test_what_is_no_number_of_a_patient_is_left_out(source, values, reason):
    column, _, why = proposed(source, values, name=source)
    assert (column is None and reason in why) if reason else column.kind == "numeric"


@pytest.mark.parametrize("values, recipe, question", [
    (["3,250", "800", "4,125"], {"decimal_comma": True}, "2 values have three digits after each ','"),
    (["3.250", "800", "4,5", "4.125"], {"decimal_comma": True}, "2 values have three digits after each '.'"),
    (["3.250", "800", "4,5", "4.125"], {"decimal_comma": True, "thousands": "."}, None),
    (["800", "12.476", "4.100"], {}, "prepare again with --thousands . --decimal-comma"),
    (["1.200.000", *["150.000", "90.000", "7.500"] * 2], {}, "7 values have three digits after each '.'"),
    (["0.745", "1.012", "1.500"], {}, None), (["1.745", "1.01", "1.5"], {}, None),
    (["3.1", "3.2", "3.3", "3.4", "3,5", "x", *spread(3, 4)], {}, "2 values become missing: a decimal comma"),
])  # fmt: skip
def test_notations_that_may_be_another_are_asked_about(values, recipe, question):
    _, asked, _ = proposed("marker", values, **recipe)
    assert question in asked if question else "three digits" not in asked


def test_words_that_nearly_agree_and_none_beside_words_are_asked_about():
    column, asked, _ = proposed("finding", ["Infiltrat", "Infiltrate", "None", "Stauung"] * 4)
    assert column.vocabulary == ("Infiltrat", "Infiltrate", "Stauung")
    assert "nearly the same: Infiltrat, Infiltrate" in asked and "None (4 times) is read as missing" in asked
    assert near_names(["Grade 1", "Grade 2", "left lung", "right lung", "T1", "T1a"]) == []
    assert near_names(["w", "weibl", "d", "Stent"]) == ["w, weibl"]
    column, _, _ = proposed("Geschlecht", ["m", "männlich", "Male", "w", "weiblich"] * 3)
    assert column.vocabulary == ("F", "M")
