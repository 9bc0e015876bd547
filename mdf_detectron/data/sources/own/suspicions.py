"""Know what numbers can be: possible ranges by name and unit, codes, mixed units, dates and identifiers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
import pandas as pd

from mdf_detectron.data.sources.kit.values import fold, unit_key

MOSTLY = 0.8
"""Least share of values that makes a column what it is, such as numeric."""

POSSIBLE: dict[str, dict[str, tuple[float, float]]] = {
    r"temp|fever|fieber": {"°C|c": (20, 47), "°F|f": (68, 117)},
    r"heart ?rate|herzfrequenz|\bhr\b|puls": {"/min|1/min|bpm": (0, 350)},
    r"resp(iratory)? ?rate|\bresp\b|atemfrequenz": {"/min|1/min": (0, 120)},
    r"spo2|sao2|o2 ?sat|saturation|sättigung": {"%": (1.5, 100), "1": (0, 1)},
    r"\b[sd]bp\b|s[iy]stol|diastol|blood ?pressure|blutdruck": {"mmHg": (0, 350)},
    r"\bcrp\b|reactive protein": {"mg/l": (0, 1000), "mg/dl": (0, 100)},
    r"procalcitonin": {"ng/ml|μg/l": (0, 1000)},
    r"la[ck]tat": {"mmol/l": (0, 40), "mg/dl": (0, 360)},
    r"\bwbc\b|leu[ck]o|white ?(blood )?cell": {"10^9/l|g/l|/nl|10^3/μl": (0, 1000), "/μl|1/μl": (0, 1_000_000)},
    r"platelet|thrombo[czk]yt|\bplt\b": {"10^9/l|g/l|/nl|10^3/μl": (0, 5000), "/μl|1/μl": (0, 5_000_000)},
    r"ha?emoglobin\b|hämoglobin|\bhb\b|\bhgb\b": {"g/dl": (0, 30), "g/l": (0, 300), "mmol/l": (0, 19)},
    r"[ck]reatinin": {"mg/dl": (0, 50), "μmol/l": (0, 4500)},
    r"glu[ck]ose|blutzucker": {"mg/dl": (0, 2000), "mmol/l": (0, 110)},
    r"sodium|natrium": {"mmol/l": (80, 220)},
    r"potassium|kalium": {"mmol/l": (0.5, 15)},
    r"bilirubin": {"mg/dl": (0, 100), "μmol/l": (0, 1700)},
    r"\burea\b|\bbun\b|harnstoff": {"mg/dl": (0, 600), "mmol/l": (0, 100)},
    r"\bph\b": {"": (6, 8.5)},
    r"base ?excess|basenüberschuss": {"mmol/l": (-50, 50)},
    r"height|körpergrö": {"cm": (20, 260), "m": (0.2, 2.6)},
    r"weight|gewicht": {"kg": (0.2, 650), "g": (200, 650_000), "lb": (0.5, 1430)},
    r"\bbmi\b|body mass": {"kg/m²": (5, 150)},
}
"""Pattern of a column's name → unit and its other spellings → what is physically possible in a living patient."""

FACTORS = {2.2046: "kg and lb", 2.54: "inches and cm", 9.01: "mmol/l and mg/dl", 10: "units a factor of 10 apart",
           18.02: "mmol/l and mg/dl", 88.4: "mg/dl and μmol/l", 100: "m and cm, or 0.97 and 97 %",
           1000: "units a factor of 1000 apart"}  # fmt: skip
_CODE = re.compile(r"-[1-9]|-?(9{2,}|8{2,}|7{2,})|-?9+\.9+")
_OF_IDS = re.compile(
    r"\b(mrn|pid|fall ?(nr|nummer)|accession( ?(no|nr|number))?)\b|(\b|patient|case|study|subject|visit)id$"
)
_OF_DATES = re.compile(r"dat(e|um)\b|birth|\bgeb(urt|\b)|\bdob\b")


def possible_units(name: str, unit: str, numbers: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return each unit that a column's name and most of its values allow, with its range; ``unit`` if it is known.

    A unit whose limit is a thousand times the median is not meant: nobody has 8 leukocytes in a microliter.
    """
    plain = re.sub(r"[\W_]+", " ", name.casefold())
    found = {}
    for spellings, (low, high) in next((u for pattern, u in POSSIBLE.items() if re.search(pattern, plain)), {}).items():
        given = unit_key(unit) in map(unit_key, spellings.split("|")) if unit else np.median(numbers) > high / 1000
        if given and np.mean((numbers >= low) & (numbers <= high)) >= MOSTLY:
            found[unit or spellings.partition("|")[0]] = (low, high)
    return found


def wide_range(numbers: np.ndarray) -> tuple[float, float]:
    """Return a range ten times as wide as the values need, in a number that a person would write (1, 2 or 5)."""
    most = max(10 * float(np.abs(numbers).max()), 1e-9)
    step = 10 ** np.floor(np.log10(most))
    top = float(f"{next(n for n in (1, 2, 5, 10) if n * step >= most * (1 - 1e-9)) * step:.6g}")
    top = int(top) if top.is_integer() else top
    return (-top if numbers.min() < 0 else 0), top


def missing_codes(numbers: np.ndarray) -> dict[float, int]:
    """Count values that stand apart from all others and look like a code, such as -9 and 999, or repeat often."""
    counts = Counter(numbers.tolist())
    coded = {v for v in counts if _CODE.fullmatch(f"{v:.15g}")}
    plain = sorted(counts.keys() - coded)
    if len(plain) < 3:
        return {}
    found = {}
    for value in sorted({*coded, plain[0], plain[-1]}):
        low, high = (plain[1] if plain[0] == value else plain[0]), (plain[-2] if plain[-1] == value else plain[-1])
        apart = value < 0 <= low or value < low - (high - low) or value > high + (high - low)
        if apart and (value in coded or counts[value] >= max(3, 0.05 * len(numbers))):
            found[value] = counts[value]
    return found


def mixed_units(numbers: np.ndarray) -> str | None:
    """Describe two groups of values with nothing between that are a known factor apart, as °C and °F."""
    numbers, few = np.sort(numbers[numbers > 0]), max(2, 0.05 * len(numbers))
    least = len(numbers) - few
    while True:
        gaps = numbers[1:] / numbers[:-1]
        if len(numbers) < max(4, least):
            return None
        low, high = np.split(numbers, [gaps.argmax() + 1])
        if min(len(low), len(high)) >= few and min(low[-1] - low[0], high[-1] - high[0]) > 0:
            break
        numbers = max(low, high, key=len)  # values alone, as typing errors, are set aside
    if gaps.max() < max(1.5, low[-1] / low[0] / 2, high[-1] / high[0] / 2):
        return None
    middle, factor = np.median(low), np.median(high) / np.median(low)
    near = min(FACTORS, key=lambda known: abs(np.log(factor / known)))
    if abs(1.8 * middle + 32 - np.median(high)) < 0.05 * np.median(high):
        units = "°C and °F"
    elif abs(np.log(factor / near)) < np.log(1.35):
        units = FACTORS[near]
    else:
        return None
    groups = " and ".join(f"{len(g)} values from {g.min():g} to {g.max():g}" for g in (low, high))
    return f"two groups with nothing between, {groups}: {units}? Then convert one of them in the table"


def no_measurement(name: str, numbers: np.ndarray, texts: Iterable[str]) -> str | None:
    """Say that whole numbers are dates or identifiers, if they are."""
    distinct = set(numbers.tolist())
    if len(distinct) < 5 or not all(v.is_integer() for v in distinct):
        return None
    name = re.sub(r"[\W_]+", " ", name.casefold())
    if _OF_IDS.search(name):
        return "whole numbers, and its name says that they are identifiers"
    remedy = "a model reads numbers: compute an age or a number of days from it"
    days = pd.to_datetime(pd.Series([f"{v:.0f}" for v in distinct]), format="%Y%m%d", errors="coerce")
    if days.between("1900-01-01", "2100-12-31").all():
        return f"dates, as 20190531; {remedy}"
    named = _OF_DATES.search(name) is not None
    if all((3654 if named else 36526) <= v <= (73050 if named else 51501) for v in distinct):
        return f"dates, as Excel counts days; {remedy}"
    if len(distinct) == len(numbers) >= 10 and (min(distinct) >= 1e5 or any(re.fullmatch(r"0\d+", t) for t in texts)):
        return "whole numbers, another one in each row: an identifier?"
    return None


def near_names(names: Sequence[str]) -> list[str]:
    """List pairs of names that nearly agree, as "Infiltrat, Infiltrate" and "m, männlich"; not if numbers differ."""
    found = []
    for one, other in combinations(sorted(names, key=len)[:200], 2):
        a, b = fold(one).rstrip("."), fold(other)
        near = SequenceMatcher(None, a, b).ratio() >= 0.88 or (b.startswith(a) and b.isalpha())
        if near and re.sub(r"\d", "", a) != re.sub(r"\d", "", b):
            found.append(f"{one}, {other}")
    return found
