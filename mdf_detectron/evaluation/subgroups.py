"""Subgroup analysis: metrics on the images of each subgroup of a clinical column.

Shapes: I images, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdf_detectron.evaluation.coco import GroundTruth
from mdf_detectron.evaluation.statistics import NUM_RESAMPLES, metric_intervals

MISSING = "missing"
RECORD = "clinical record"
AGE_BANDS = (40.0, 65.0, 80.0)
MAX_VALUES = 6
"""A numeric column with at most so many distinct values (an acuity level) is grouped by value, others by range."""

MIN_PATIENTS = 30
MIN_BOXES = 10


@dataclass(frozen=True)
class SubgroupResult:
    """Metrics of one subgroup.

    Attributes:
        column, group: clinical column, and the group's name.
        images, patients, boxes: how many there are in the group (ground-truth boxes without crowds).
        values, low, high: (M,) metrics and the ends of their intervals.
        warning: empty, or why the group is too small to rely on.
    """

    column: str
    group: str
    images: int
    patients: int
    boxes: int
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    warning: str


def clinical_columns(ground_truth: GroundTruth) -> list[str]:
    """List the names of the images' clinical columns, in order of appearance."""
    return list(dict.fromkeys(name for image in ground_truth.images for name in image.get("clinical") or {}))


def groups_of(ground_truth: GroundTruth, column: str, edges: Sequence[float] | None = None) -> dict[str, np.ndarray]:
    """Divide the images by a clinical column.

    Categories, and numbers of at most :data:`MAX_VALUES` distinct values, make a group each; other numbers are cut at
    ``edges`` (by default :data:`AGE_BANDS` for ``age``, tertiles else).  Images without a value are the group
    ``"missing"``. The column :data:`RECORD` divides into records with any value, and those without.

    Returns:
        group name → (I,) bool; the groups do not overlap, none is empty, and together they are all images.

    Raises:
        ValueError: a column that no image has.
    """
    records = [image.get("clinical") or {} for image in ground_truth.images]
    if column == RECORD:
        present = np.array([any(not _missing(v) for v in record.values()) for record in records], dtype=bool)
        return _not_empty({"present": present, MISSING: ~present})
    if column not in clinical_columns(ground_truth):
        raise ValueError(f"no image has a clinical column '{column}'; there are {clinical_columns(ground_truth)}")
    values = [record.get(column) for record in records]
    missing = np.array([_missing(v) for v in values], dtype=bool)
    known = [v for v in values if not _missing(v)]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known)
    distinct = sorted(set(known) if numeric else {str(v) for v in known})
    if not numeric:
        groups = {v: np.array([not m and str(x) == v for x, m in zip(values, missing, strict=True)]) for v in distinct}
    else:
        numbers = np.array([math.nan if m else float(v) for v, m in zip(values, missing, strict=True)])
        if edges is None and len(distinct) <= MAX_VALUES:
            groups = {f"{v:g}": numbers == v for v in distinct}
        else:
            groups = _bands(numbers, edges or (AGE_BANDS if column == "age" else _tertiles(numbers)))
    return _not_empty({**groups, MISSING: missing})


def subgroup_results(
    ground_truth: GroundTruth,
    statistic: Callable[[np.ndarray], np.ndarray],
    patients: np.ndarray,
    columns: Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    highest: float = 100.0,
    support: np.ndarray | None = None,
) -> list[SubgroupResult]:
    """Compute metrics and bootstrap intervals of every subgroup of every column.

    Args:
        statistic: (B, I) weights of the images → (B, M) metrics.
        patients: (I,) patient numbers; a subgroup's interval comes from resampling its own patients.
        columns: names; all clinical columns and :data:`RECORD` when None.
        highest: the metrics' greatest possible value.
        support: (M, I) bool, the images that each metric rests on; those with a ground-truth box when None.
    """
    if support is None:
        support = np.zeros((1, ground_truth.num_images), dtype=bool)
        support[:, ground_truth.image[~ground_truth.crowd]] = True
    wanted = [*clinical_columns(ground_truth), RECORD] if columns is None else columns
    out = []
    for column in wanted:
        for name, members in groups_of(ground_truth, column).items():
            part = _Part(column, name, members, support)
            out.append(_subgroup(part, ground_truth, statistic, patients, num_resamples, seed, highest))
    return out


@dataclass(frozen=True)
class _Part:
    column: str
    group: str
    members: np.ndarray
    support: np.ndarray


def _subgroup(part, ground_truth, statistic, patients, num_resamples, seed, highest) -> SubgroupResult:
    members = part.members
    index = np.flatnonzero(members)
    numbers = np.unique(patients[index], return_inverse=True)[1]

    def on_members(member_weights: np.ndarray) -> np.ndarray:
        spread = np.zeros((len(member_weights), len(members)))
        spread[:, index] = member_weights
        return statistic(spread)

    num_patients = len(np.unique(numbers))
    num_boxes = int((members[ground_truth.image] & ~ground_truth.crowd).sum())
    supported = np.array([len(np.unique(patients[row & members])) for row in part.support])
    values, low, high = metric_intervals(on_members, numbers, supported, num_resamples, seed, bounds=(0.0, highest))
    return SubgroupResult(
        column=part.column,
        group=part.group,
        images=len(index),
        patients=num_patients,
        boxes=num_boxes,
        values=values,
        low=low,
        high=high,
        warning=_warning(num_patients, num_boxes),
    )


def _warning(num_patients: int, num_boxes: int) -> str:
    if num_boxes == 0:
        return "no ground-truth box: nothing to find"
    few = [f"{n} {what}" for n, what, least in (
        (num_patients, "patients", MIN_PATIENTS), (num_boxes, "boxes", MIN_BOXES)) if n < least]  # fmt: skip
    return f"small group ({' and '.join(few)}): not reliable" if few else ""


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _tertiles(numbers: np.ndarray) -> tuple[float, ...]:
    return tuple(np.unique(np.quantile(numbers[np.isfinite(numbers)], [1 / 3, 2 / 3])).tolist())


def _bands(numbers: np.ndarray, edges: Sequence[float]) -> dict[str, np.ndarray]:
    """Below the first edge, between two edges (the lower included), from the last on."""
    bands = {f"< {edges[0]:.4g}": numbers < edges[0]}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        bands[f"{low:.4g} – < {high:.4g}"] = (numbers >= low) & (numbers < high)
    bands[f"≥ {edges[-1]:.4g}"] = numbers >= edges[-1]
    return bands


def _not_empty(groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: members for name, members in groups.items() if members.any()}
