"""What every collection's preparation shares: broken input, dirty values, and their account."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mdf_detectron.data.schema import ClinicalColumn
from mdf_detectron.errors import SourceDataError, shorten

LISTED = 20
"""Messages of one kind that an error or a report lists; further ones are counted only."""

EMPTY_WORDS = frozenset(
    {
        "",
        "na",
        "n/a",
        "n.a.",
        "k.a.",
        "nan",
        "nat",
        "none",
        "null",
        "nil",
        "-",
        "--",
        ".",
        "?",
        "unknown",
        "unk",
        "missing",
    }
)
"""Spellings, folded, of a value that is missing."""

SEX_WORDS = {"f": "F", "female": "F", "woman": "F", "w": "F", "m": "M", "male": "M", "man": "M", "o": "O", "other": "O"}
"""Spellings, folded, of the sexes."""

YES_NO_WORDS = {"yes": "yes", "y": "yes", "true": "yes", "no": "no", "n": "no", "false": "no"}
"""Spellings, folded, of yes and no."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
_AGE = re.compile(
    r"(-?\d+(?:[.,]\d+)?)\s*(y|yr|yrs|years?|j|jahre?|m|mo|months?|w|wk|weeks?|d|days?)?\.?(?:\s*old)?", re.IGNORECASE
)
_UNITS_A_YEAR = {"y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}

NOT_A_NUMBER, BOOLEAN, INFINITE = "not a number", "a boolean is no number", "not finite"
DECIMAL_COMMA = "a decimal comma (--decimal-comma reads it)"
NOT_A_CATEGORY = "not in the vocabulary"


class ProblemList:
    """Collects broken input, so that all of it is told at once.

    Args:
        skip: count broken entries and go on without them (``--on-error skip``); else :meth:`stop_if_any` raises.
        show_values: put messages and examples of values, which may name patients, into the report too.
    """

    def __init__(self, skip: bool = False, show_values: bool = False) -> None:
        self.skip, self.show_values = skip, show_values
        self.counts: Counter[str] = Counter()
        self.listed: dict[str, list[str]] = {}

    def add(self, kind: str, message: str) -> None:
        """Add one problem of a ``kind`` (a short phrase to count by).

        ``message`` names file, row and value, what was expected and what to do.
        """
        self.counts[kind] += 1
        listed = self.listed.setdefault(kind, [])
        if len(listed) < LISTED:
            listed.append(message)

    def stop_if_any(self) -> None:
        """Raise :class:`SourceDataError` with all problems so far, one line each, unless they are skipped."""
        if self.skip or not self.counts:
            return
        if sum(self.counts.values()) == 1:
            (kind,) = self.counts
            raise SourceDataError(f"{self.listed[kind][0]} (--on-error skip counts such entries and leaves them out)")
        lines = [f"{sum(self.counts.values())} problems (--on-error skip counts such entries and leaves them out):"]
        for kind, count in self.counts.items():
            lines += [f"  {message}" for message in self.listed[kind]]
            if count > LISTED:
                lines.append(f"  … and {count - LISTED} more of the kind '{kind}'")
        raise SourceDataError("\n".join(lines))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return kind → ``count``, and the ``first`` messages if values are shown, for the report."""
        shown = {kind: {"first": messages} for kind, messages in self.listed.items() if self.show_values}
        return {kind: {"count": n, **shown.get(kind, {})} for kind, n in self.counts.items()}

    def tell(self) -> None:
        """Log what is skipped, the first messages of each kind."""
        for kind, messages in self.listed.items():
            for message in messages[:LISTED]:
                logging.getLogger(__name__).warning(f"left out, {kind}: {message}")


class ValueLog:
    """Counts the values that were changed or removed, by column and reason, with examples."""

    EXAMPLES = 5

    def __init__(self) -> None:
        self.changed: Counter[tuple[str, str]] = Counter()
        self.removed: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], list[str]] = {}

    def change(self, column: str, reason: str, example: Any = None) -> None:
        """Count a value that is kept, but not as it was written."""
        self._count(self.changed, column, reason, example)

    def remove(self, column: str, reason: str, example: Any = None) -> None:
        """Count a value that became missing."""
        self._count(self.removed, column, reason, example)

    def _count(self, counter: Counter, column: str, reason: str, example: Any) -> None:
        counter[column, reason] += 1
        known = self.examples.setdefault((column, reason), [])
        if example is not None and len(known) < self.EXAMPLES and shorten(example, 30) not in known:
            known.append(shorten(example, 30))

    def dropped(self) -> dict[str, int]:
        """Return "<column>: <reason>" → count of the removed values, for the flow."""
        return {f"{column}: {reason}": n for (column, reason), n in sorted(self.removed.items())}

    def rows(self) -> list[tuple[str, str, str, int, str]]:
        """Return (column, "changed" or "removed", reason, count, examples) of every reason."""
        return [
            (column, what, reason, n, ", ".join(self.examples[column, reason]))
            for what, counter in (("changed", self.changed), ("removed", self.removed))
            for (column, reason), n in sorted(counter.items())
        ]


def fold(value: Any) -> str:
    """Text for comparing: without outer and repeated white space, in one case."""
    return " ".join(str(value).split()).casefold()


def is_empty(value: Any) -> bool:
    """Whether a raw value is missing, in any usual spelling."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or fold(value) in EMPTY_WORDS


def _is_boolean(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_") or fold(value) in ("true", "false", "yes", "no")


def parse_number(value: Any, decimal_comma: bool = False) -> tuple[float | None, str | None]:
    """Read a number from a raw value that is not empty.

    Args:
        decimal_comma: "38,1" is 38.1, and "1.234,5" is 1234.5.

    Returns:
        the number, and how it was read where that is not plain ("the limit of '<0.5'"); or None and why not.
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
    """Read an age in years from a number or any spelling of a DICOM age: "062Y", "62", "62 years", "018M", "10D".

    Returns:
        the years (two decimals where the unit is shorter), and how they were read; or None and why not.
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


def clean_value(value: Any, column: ClinicalColumn, log: ValueLog, *, decimal_comma: bool = False,
                mapping: Mapping[str, str] | None = None, as_age: bool = False) -> Any:  # fmt: skip
    """Return a raw value as the schema's column allows it, or None; what is changed or removed is logged.

    Args:
        mapping: raw spelling → value of the vocabulary, compared folded, before anything else.
        as_age: a number may carry a unit of time.
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
        return str(int(value))  # a code that a table with empty values holds as a float
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
