"""Patient ids: the one spelling of each, so that no patient is counted twice or lands in two splits."""

from __future__ import annotations

import math
import re
from typing import Any

_NOBODY = {"", "nan", "none", "null", "na", "n/a", "<na>", "nat", "unknown"}
_WHOLE = re.compile(r"([+-]?\d+)\.0*")


def patient_key(value: Any) -> str | None:
    """Normalize a patient id.

    Whole numbers and texts that differ in spaces around or in ``.0`` are one patient: 200, 200.0, "200", "200.0" and
    "200 " all give "200". Leading zeros and letter case are kept.

    Returns:
        the id as text, or None where there is none (None, NaN, an empty text, "nan", "None" …).

    Raises:
        TypeError: a value that is no id, a list or a boolean for one.
    """
    if hasattr(value, "item") and not isinstance(value, str):  # a number of numpy
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"a patient id is a text or a number, not a {type(value).__name__}")
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) and value == int(value) else str(value)
    text = " ".join(str(value).split())
    whole = _WHOLE.fullmatch(text)
    text = whole[1] if whole else text
    return None if text.casefold() in _NOBODY else text


def look_alike(key: str) -> str:
    """Reduce a normalized id to what typing mistakes leave: its letters in one case and digits, without leading zeros.

    Two patients may share it; whoever compares asks a person.
    """
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]+", "", key.casefold()))
