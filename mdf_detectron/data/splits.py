"""Patients: the one spelling of each id, and splits in which no patient is on two sides.

:func:`grouped_folds` balances one stratum per record; :func:`balanced_parts` balances how often each of several classes
occurs, for records that hold many. NumPy only.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from mdf_detectron.errors import DatasetError

SPLITS = ("train", "val", "test")
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


def grouped_folds(groups: Sequence[Hashable], strata: Sequence[Hashable], folds: int, seed: int) -> np.ndarray:
    """Deal each record to a fold, 0 … folds−1, (len(groups),) int64; a group is in one fold only.

    Args:
        groups: patient of each record, in any spelling of :func:`patient_key`.
        strata: what to balance between the folds (a record's rarest class, say).

    Raises:
        ValueError: fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # scikit-learn is slow to import

    group_ids = _patient_numbers(groups)
    if group_ids.max(initial=-1) + 1 < folds:
        raise ValueError(f"cannot make {folds} folds of {group_ids.max(initial=-1) + 1} patients")
    labels = {s: i for i, s in enumerate(dict.fromkeys(strata))}
    stratum_ids = np.array([labels[s] for s in strata])
    # StratifiedGroupKFold wants at least `folds` members of some class; rare strata it only spreads as it can.
    if np.bincount(stratum_ids).max() < folds:
        stratum_ids[:] = 0
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.empty(len(group_ids), dtype=np.int64)
    with warnings.catch_warnings():
        # Strata rarer than the folds cannot be in every fold; that is expected and no matter for the user.
        warnings.filterwarnings("ignore", message="The least populated class in y")
        for number, (_, members) in enumerate(splitter.split(group_ids, stratum_ids, group_ids)):
            fold[members] = number
    return fold


def _patient_numbers(groups: Sequence[Hashable]) -> np.ndarray:
    """Number the patients in order of appearance, (R,) int64; one number for all spellings of a patient."""
    keys = [patient_key(group) for group in groups]
    if None in keys:
        at = keys.index(None)
        raise DatasetError(f"record {at}: patient {groups[at]!r} is no patient; leave such records out")
    codes = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([codes[key] for key in keys], dtype=np.int64)


def train_val_test(
    groups: Sequence[Hashable],
    strata: Sequence[Hashable],
    seed: int,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
) -> list[str]:
    """Deal each record to "train", "val" or "test", by patient, near ``fractions`` (of 20 folds, rounded).

    With fewer than 20 patients as many folds as there are patients are shared out; at least 3 are needed.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise ValueError(f"split fractions must be non-negative and sum to 1, got {fractions}")
    folds = min(20, _patient_numbers(groups).max(initial=-1) + 1)
    if folds < 3:
        raise ValueError(f"a train/val/test split needs at least 3 patients, got {folds}")
    val = max(1, round(folds * fractions[1])) if fractions[1] else 0
    test = max(1, round(folds * fractions[2])) if fractions[2] else 0
    fold = grouped_folds(groups, strata, folds, seed)
    return ["test" if f < test else "val" if f < test + val else "train" for f in fold]


def balanced_parts(groups: Sequence[Hashable], counts: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Deal each record to a part, 0 … len(fractions)−1, (R,) int64; a group is in one part only, no part is empty.

    Groups are dealt one by one, those with the rarest classes first (ties at random), each to the part that brings
    the shares of records and of every class nearest to ``fractions`` (squared differences over the fraction, summed, so
    that large and small parts fill up alike).

    Args:
        groups: patient of each record.
        counts: (R, C) int, how often each class occurs in a record.
        fractions: share of each part, positive, sum 1.
        seed: of the order.

    Raises:
        ValueError: fewer groups than parts, or other fractions.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) <= 0:
        raise ValueError(f"split fractions must be positive and sum to 1, got {tuple(fractions)}")
    group_of = _patient_numbers(groups)
    count = group_of.max(initial=-1) + 1
    if count < len(fractions):
        raise ValueError(f"a split into {len(fractions)} parts needs as many patients, got {count}")
    held = np.zeros((count, 1 + counts.shape[1]))  # records, then each class
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
        if empty.sum() >= len(order) - place:  # the last groups go to the parts that have none
            change[~empty] = np.inf
        part[group] = int(change.argmin())
        share[part[group]] += gain
    return part[group_of]
