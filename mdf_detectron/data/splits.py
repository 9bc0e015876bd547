"""Patient-grouped, class-stratified splits: no patient is ever on two sides."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold


def grouped_folds(groups: Sequence[Hashable], strata: Sequence[Hashable], folds: int, seed: int) -> np.ndarray:
    """Fold number (0 … folds−1) of each record, (len(groups),) int64; a group is in one fold only.

    Args:
        groups: patient of each record.
        strata: what to balance between the folds (a record's rarest class, say).

    Raises:
        ValueError: fewer groups than folds.
    """
    codes = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    if len(codes) < folds:
        raise ValueError(f"cannot make {folds} folds of {len(codes)} patients")
    labels = {s: i for i, s in enumerate(dict.fromkeys(strata))}
    group_ids = np.array([codes[g] for g in groups])
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


def train_val_test(
    groups: Sequence[Hashable],
    strata: Sequence[Hashable],
    seed: int,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
) -> list[str]:
    """ "train", "val" or "test" for each record, by patient, near ``fractions`` (of 20 folds, rounded).

    With fewer than 20 patients as many folds as there are patients are shared out; at least 3 are needed.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise ValueError(f"split fractions must be non-negative and sum to 1, got {fractions}")
    folds = min(20, len(set(groups)))
    if folds < 3:
        raise ValueError(f"a train/val/test split needs at least 3 patients, got {folds}")
    val = max(1, round(folds * fractions[1])) if fractions[1] else 0
    test = max(1, round(folds * fractions[2])) if fractions[2] else 0
    fold = grouped_folds(groups, strata, folds, seed)
    return ["test" if f < test else "val" if f < test + val else "train" for f in fold]
