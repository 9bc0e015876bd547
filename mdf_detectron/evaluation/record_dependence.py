"""Record dependence: scores with clinical records exchanged between patients, and with records removed.

A model that uses a column loses AP when its values belong to another patient; one that ignores it does not.
This is the paper's feature study without retraining. Records are Detectron2 dataset dicts with ``"image_id"``,
``"patient_id"`` and ``"clinical"`` (column → raw value or None).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mdf_detectron.data.record_changes import Record, _checked, permute_records, remove_records

ALL_COLUMNS = "all columns"
REMOVED = "records removed"


@dataclass(frozen=True)
class RecordDependence:
    """Loss of the score by one change to the records.

    Attributes:
        change: a column's name, :data:`ALL_COLUMNS` or :data:`REMOVED`.
        scores: one score for each repeat of the change.
        losses: the unchanged records' score minus each of them.
    """

    change: str
    scores: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def mean_loss(self) -> float:
        return float(np.mean(self.losses))


def record_dependence(
    records: Sequence[Record],
    score: Callable[[Sequence[Record]], float],
    *,
    columns: Sequence[str] | None = None,
    repeats: int = 3,
    seed: int = 0,
) -> tuple[float, list[RecordDependence]]:
    """Score the records unchanged, with each column permuted, all columns permuted, and removed.

    Args:
        records: the test set.
        score: runs the model on records and gives one number, for example AP50 by IoBB.
        columns: columns to permute one by one; all when None.
        repeats: permutations of each kind, with different seeds.

    Returns:
        The score of the unchanged records, and the changes: columns in order, then all columns, then removed.
    """
    changes: list[tuple[str, list[str] | None]] = [(name, [name]) for name in _checked(records, columns)]
    unchanged = float(score(records))
    out = []
    for change, names in [*changes, (ALL_COLUMNS, None)]:
        scores = tuple(float(score(permute_records(records, names, seed + r))) for r in range(repeats))
        out.append(RecordDependence(change, scores, tuple(unchanged - s for s in scores)))
    removed = float(score(remove_records(records)))
    return unchanged, [*out, RecordDependence(REMOVED, (removed,), (unchanged - removed,))]
