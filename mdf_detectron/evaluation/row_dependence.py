"""Does the clinical row matter?  Scores with rows exchanged between patients, and with rows taken away.

A model that uses a column loses AP when that column belongs to somebody else; one that ignores it does not.
This is the paper's feature study without training again.  Records are Detectron2 dataset dicts with ``"image_id"``,
``"patient_id"`` and ``"clinical"`` (column → raw value or None).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdf_detectron.errors import UserError

Record = Mapping[str, Any]

ALL_COLUMNS = "all columns"
REMOVED = "rows removed"


class RowDependenceError(UserError, ValueError):
    """Records whose rows cannot be exchanged or taken away."""


@dataclass(frozen=True)
class RowDependence:
    """Loss of the score by one change to the rows.

    Attributes:
        change: a column's name, :data:`ALL_COLUMNS` or :data:`REMOVED`.
        scores: one score for each repeat of the change.
        losses: the unchanged rows' score minus each of them.
    """

    change: str
    scores: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def mean_loss(self) -> float:
        return float(np.mean(self.losses))


def clinical_column_names(records: Sequence[Record]) -> list[str]:
    """Names of the columns in the records' rows, in order of appearance."""
    return list(dict.fromkeys(name for record in records for name in record.get("clinical") or {}))


def permute_rows(
    records: Sequence[Record], columns: Sequence[str] | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Records in which every patient has another patient's values.

    Patients are put in a random circle and each takes the values of the next, so nobody keeps their own; a patient's
    n-th image takes them from the n-th image of that other patient, counted around.  All ``columns`` come from the same
    donor, so what is permuted stays plausible in itself.

    Args:
        columns: names, or None for the whole rows.

    Returns:
        New records; the given ones are not changed.

    Raises:
        RowDependenceError: fewer than two patients, or a column that no record has.
    """
    columns = _checked(records, columns)
    images_of: dict[Any, list[int]] = {}
    for i, record in enumerate(records):
        images_of.setdefault(record.get("patient_id", ("image", record.get("image_id", i))), []).append(i)
    if len(images_of) < 2:
        raise RowDependenceError(
            f"rows can be exchanged between two patients at least; the records have {len(images_of)}"
        )
    patients = list(images_of)
    circle = [patients[i] for i in np.random.default_rng(seed).permutation(len(patients))]
    out = [dict(record) for record in records]
    for patient, donor in zip(circle, circle[1:] + circle[:1], strict=True):
        for n, i in enumerate(images_of[patient]):
            source = records[images_of[donor][n % len(images_of[donor])]].get("clinical") or {}
            out[i]["clinical"] = {**(records[i].get("clinical") or {}), **{c: source.get(c) for c in columns}}
    return out


def remove_rows(records: Sequence[Record], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """New records in which the named columns (None: all) are missing."""
    columns = _checked(records, columns)
    return [_without(r, columns) for r in records]


def hide_cells(records: Sequence[Record], share: float, seed: int = 0) -> list[dict[str, Any]]:
    """New records in each of which a random ``share`` of the columns is missing (rounded to whole columns).

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    columns, rng = clinical_column_names(records), np.random.default_rng(seed)
    count = round(share * len(columns))
    return [_without(r, rng.permutation(columns)[:count].tolist()) for r in records]


def _without(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    return {**record, "clinical": {**(record.get("clinical") or {}), **dict.fromkeys(columns)}}


def row_dependence(
    records: Sequence[Record],
    score: Callable[[Sequence[Record]], float],
    *,
    columns: Sequence[str] | None = None,
    repeats: int = 3,
    seed: int = 0,
) -> tuple[float, list[RowDependence]]:
    """Score with the rows as they are, each column permuted, all columns permuted, and rows removed.

    Args:
        records: the test set.
        score: runs the model on records and gives one number, for example AP50 by IoBB.
        columns: columns to permute one by one; all when None.
        repeats: permutations of each kind, with different seeds.

    Returns:
        The score of the unchanged rows, and the changes: columns in order, then all columns, then removed.
    """
    changes: list[tuple[str, list[str] | None]] = [(name, [name]) for name in _checked(records, columns)]
    unchanged = float(score(records))
    out = []
    for change, names in [*changes, (ALL_COLUMNS, None)]:
        scores = tuple(float(score(permute_rows(records, names, seed + r))) for r in range(repeats))
        out.append(RowDependence(change, scores, tuple(unchanged - s for s in scores)))
    removed = float(score(remove_rows(records)))
    return unchanged, [*out, RowDependence(REMOVED, (removed,), (unchanged - removed,))]


def _checked(records: Sequence[Record], columns: Sequence[str] | None) -> list[str]:
    known = clinical_column_names(records)
    unknown = sorted(set(columns or ()) - set(known))
    if unknown:
        raise RowDependenceError(f"no record has the clinical column(s) {unknown}; there are {known}")
    return known if columns is None else list(columns)
