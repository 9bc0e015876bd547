"""Parse dirty numbers, ages and categories; log every change and removal with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mdf_detectron.data.schema import ClinicalColumn
from mdf_detectron.data.sources.kit.account import ValueLog

EMPTY_WORDS = frozenset({"", "na", "n/a", "n.a.", "k.a.", "nan", "nat", "none", "null", "nil", "-", "--", ".", "?",
                         "unknown", "unk", "missing"})  # fmt: skip
"""Folded spellings of a missing value."""

SEX_WORDS = {"f": "F", "female": "F", "woman": "F", "w": "F", "m": "M", "male": "M", "man": "M", "o": "O", "other": "O"}

YES_NO_WORDS = {"yes": "yes", "y": "yes", "true": "yes", "no": "no", "n": "no", "false": "no"}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
_AGE = re.compile(
    r"(-?\d+(?:[.,]\d+)?)\s*(y|yr|yrs|years?|j|jahre?|m|mo|months?|w|wk|weeks?|d|days?)?\.?(?:\s*old)?", re.IGNORECASE
)
_AGE_NAME = re.compile(r"(^|[^a-z])age([^a-z]|$)|patientage|alter", re.IGNORECASE)
_UNITS_A_YEAR = {"y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}

NOT_A_NUMBER, BOOLEAN, INFINITE = "not a number", "a boolean is not a number", "not finite"
DECIMAL_COMMA = "a decimal comma (--decimal-comma reads it)"
NOT_A_CATEGORY = "not in the vocabulary"


def fold(value: Any) -> str:
    """Normalize text for comparison: case-folded, white space stripped and collapsed."""
    return " ".join(str(value).split()).casefold()


def is_empty(value: Any) -> bool:
    """Tell whether a raw value is missing, in any common spelling."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or fold(value) in EMPTY_WORDS


def _is_boolean(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_") or fold(value) in ("true", "false", "yes", "no")


def parse_number(value: Any, decimal_comma: bool = False) -> tuple[float | None, str | None]:
    """Parse a number from a raw value that is not empty; ``decimal_comma`` reads "1.234,5" as 1234.5.

    Returns:
        (number, None), (number, how it was read) for notations such as "<0.5", or (None, why not).
    """
    if _is_boolean(value):
        return None, BOOLEAN
    text, how = " ".join(str(value).split()), None
    if text[:1] in "<>≤≥" and text:
        text, how = text.lstrip("<>≤≥= "), "the limit of a value beyond it (<, >)"
    if decimal_comma and "," in text:
        text = text.replace(".", "").replace(",", ".")
    elif _COMMA_NUMBER.fullmatch(text):
        return None, DECIMAL_COMMA
    if text.casefold().lstrip("+-") in ("inf", "infinity"):
        return None, INFINITE
    if not _NUMBER.fullmatch(text):
        return None, NOT_A_NUMBER
    number = float(text)
    return (number, how) if math.isfinite(number) else (None, INFINITE)


def parse_age(value: Any) -> tuple[float | None, str | None]:
    """Parse an age in years from a number or a DICOM age ("062Y", "62", "62 years", "018M", "10D").

    Return as :func:`parse_number` does; ages in months, weeks or days have two decimals.
    """
    if _is_boolean(value):
        return None, BOOLEAN
    match = _AGE.fullmatch(" ".join(str(value).split()))
    if not match:
        return None, INFINITE if fold(value).lstrip("+-") in ("inf", "infinity") else NOT_A_NUMBER
    number, unit = float(match[1].replace(",", ".")), (match[2] or "y")[0].lower()
    if unit in "yj":
        plain = match[2] is None
        return number, None if plain else "an age with its unit"
    return round(number / _UNITS_A_YEAR[unit], 2), "an age in months, weeks or days"


def is_age(*names: str) -> bool:
    """Tell whether any of a column's names says that it is an age."""
    return any(_AGE_NAME.search(name) for name in names)


def clean_value(value: Any, column: ClinicalColumn, log: ValueLog, *, decimal_comma: bool = False,
                mapping: Mapping[str, str] | None = None, as_age: bool = False) -> Any:  # fmt: skip
    """Return a raw value as the schema's column allows it, or None; log changes and removals.

    Args:
        mapping: raw spelling → value of the vocabulary; applied first, ignoring case and spaces.
        as_age: accept a unit of time.
    """
    if is_empty(value):
        log.remove(column.name, "empty")
        return None
    if mapping:
        folded = {fold(raw): to for raw, to in mapping.items()}
        if fold(value) in folded:
            mapped = folded[fold(value)]
            if str(value) != mapped:
                log.change(column.name, "mapped by --columns", value)
            value = mapped
    if column.kind == "categorical":
        return _category(value, column, log)
    number, how = parse_age(value) if as_age else parse_number(value, decimal_comma)
    if number is None:
        log.remove(column.name, how or NOT_A_NUMBER, value)
        return None
    if not column.minimum <= number <= column.maximum:
        log.remove(column.name, f"outside {column.minimum:g} to {column.maximum:g} {column.unit}".rstrip(), value)
        return None
    if how:
        log.change(column.name, how, value)
    return number


def _category(value: Any, column: ClinicalColumn, log: ValueLog) -> str | None:
    text = str(value)
    if text in column.vocabulary:
        return text
    if isinstance(value, float) and value.is_integer() and str(int(value)) in column.vocabulary:
        return str(int(value))  # columns with missing values hold codes as floats
    chosen = {fold(word): word for word in column.vocabulary}.get(fold(value))
    for words in (SEX_WORDS, YES_NO_WORDS):
        word = words.get(fold(value))
        if chosen is None and word in column.vocabulary and set(column.vocabulary) <= set(words.values()):
            chosen = word
    if chosen is None:
        log.remove(column.name, NOT_A_CATEGORY, value)
        return None
    log.change(column.name, "another spelling", value)
    return chosen
