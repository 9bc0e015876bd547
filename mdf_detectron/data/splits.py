"""Normalize patient ids, and split data so that each patient is in one split only.

:func:`grouped_folds` balances one stratum per record; :func:`balanced_parts` balances the counts of many classes per
record. This module imports no torch.
"""

import math
import re
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from mdf_detectron.errors import DatasetError

SPLITS = ("train", "val", "test")
_NOBODY = {"", "nan", "none", "null", "na", "n/a", "<na>", "nat", "unknown"}
ROUNDED = "an id that a spreadsheet rounded"
ROUNDED_TEXT = "a spreadsheet rounded it, and others may read the same: format the column as text, and export it again"
_ROUNDED = re.compile(r"[1-9](?:[.,]\d+)?[eE]\+\d+")
_WHOLE = re.compile(r"([+-]?\d+)\.0*")


def patient_key(value: Any) -> str | None:
    """Normalize a patient id to text; return None if it is missing (None, NaN, an empty text, "nan", "None" …).

    Surrounding spaces and ``.0`` do not matter: 200, 200.0, "200", "200.0" and "200 " all give "200". Leading zeros
    and letter case are kept.

    Raises:
        TypeError: not a text or number.
    """
    if hasattr(value, "item") and not isinstance(value, str):  # a NumPy scalar
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


def is_rounded(value: Any) -> bool:
    """Tell whether a spreadsheet rounded an id: "1.23E+08", or a number of more than 15 digits."""
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) >= 1e15
    return _ROUNDED.fullmatch(str(value).strip()) is not None


def look_alike(key: str) -> str:
    """Reduce a normalized id to case-folded letters and digits without leading zeros, to find misspelled ids.

    Two patients may share the result, so a person must decide.
    """
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]+", "", key.casefold()))


def grouped_folds(groups: Sequence[Hashable], strata: Sequence[Hashable], folds: int, seed: int) -> np.ndarray:
    """Assign each record a fold, 0 … folds−1, (len(groups),) int64; each group is in one fold only.

    Args:
        groups: patient of each record, in any spelling that :func:`patient_key` accepts.
        strata: one label per record to balance between folds (its rarest class, say).

    Raises:
        ValueError: fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # scikit-learn is slow to import

    group_ids = _patient_numbers(groups)
    if group_ids.max(initial=-1) + 1 < folds:
        raise ValueError(f"cannot make {folds} folds of {group_ids.max(initial=-1) + 1} patients")
    labels = {s: i for i, s in enumerate(dict.fromkeys(strata))}
    stratum_ids = np.array([labels[s] for s in strata])
    # StratifiedGroupKFold needs a stratum with at least `folds` members; it spreads rarer strata as well as possible.
    if np.bincount(stratum_ids).max() < folds:
        stratum_ids[:] = 0
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.empty(len(group_ids), dtype=np.int64)
    with warnings.catch_warnings():
        # expected: strata with fewer members than folds
        warnings.filterwarnings("ignore", message="The least populated class in y")
        for number, (_, members) in enumerate(splitter.split(group_ids, stratum_ids, group_ids)):
            fold[members] = number
    return fold


def _patient_numbers(groups: Sequence[Hashable]) -> np.ndarray:
    """Number the patients in order of appearance, (R,) int64; all spellings of a patient share a number."""
    keys = [patient_key(group) for group in groups]
    if None in keys:
        at = keys.index(None)
        raise DatasetError(f"record {at}: patient {groups[at]!r} is no patient; leave such records out")
    codes = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([codes[key] for key in keys], dtype=np.int64)


def train_val_test(groups: Sequence[Hashable], strata: Sequence[Hashable], seed: int) -> list[str]:
    """Assign each record to "train", "val" or "test", by patient: 70, 15 and 15 %, by 20 folds.

    With fewer than 20 patients, the number of folds is the number of patients; fewer than 3 raise ``ValueError``.
    """
    folds = min(20, _patient_numbers(groups).max(initial=-1) + 1)
    if folds < 3:
        raise ValueError(f"a train/val/test split needs at least 3 patients, got {folds}")
    part = max(1, round(folds * 0.15))
    fold = grouped_folds(groups, strata, folds, seed)
    return ["test" if f < part else "val" if f < 2 * part else "train" for f in fold]


def balanced_parts(groups: Sequence[Hashable], counts: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Assign each record a part, 0 … len(fractions)−1, (R,) int64; each group is in one part only, no part is empty.

    Groups are assigned one by one, those with the rarest classes first (ties at random), to the part that brings the
    shares of records and of every class closest to ``fractions`` (sum of squared differences over the fraction, so that
    large and small parts fill evenly).

    Args:
        groups: patient of each record.
        counts: (R, C) int, occurrences of each class in a record.
        fractions: share of each part, positive, sum 1.

    Raises:
        ValueError: fewer groups than parts, or invalid fractions.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) <= 0:
        raise ValueError(f"split fractions must be positive and sum to 1, got {tuple(fractions)}")
    group_of = _patient_numbers(groups)
    count = group_of.max(initial=-1) + 1
    if count < len(fractions):
        raise ValueError(f"a split into {len(fractions)} parts needs as many patients, got {count}")
    held = np.zeros((count, 1 + counts.shape[1]))  # column 0 counts records, the others classes
    np.add.at(held, group_of, np.column_stack([np.ones(len(groups)), counts]))
    totals = held.sum(axis=0)
    held, totals = held[:, totals > 0], totals[totals > 0]
    rarest = np.where(held > 0, totals, np.inf).min(axis=1)
    shuffled = np.random.default_rng(seed).permutation(len(held))
    order = shuffled[np.lexsort((-held.sum(axis=1)[shuffled], rarest[shuffled]))]
    wanted = np.array(fractions)[:, None]
    share, part = np.zeros((len(fractions), len(totals))), np.empty(len(held), dtype=np.int64)
    for place, group in enumerate(order):
        gain = held[group] / totals
        change = (((share + gain - wanted) ** 2 - (share - wanted) ** 2) / wanted).sum(axis=1)
        empty = ~(share > 0).any(axis=1)
        if empty.sum() >= len(order) - place:  # the last groups go to empty parts
            change[~empty] = np.inf
        part[group] = int(change.argmin())
        share[part[group]] += gain
    return part[group_of]
