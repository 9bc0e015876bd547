"""Subgroup analysis: find the images of each subgroup of a clinical column, (I,) bool."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdf_detectron.data.record_changes import clinical_column_names
from mdf_detectron.data.schema import is_missing
from mdf_detectron.evaluation.coco import GroundTruth
from mdf_detectron.evaluation.estimates import FoldedImages

MISSING = "missing"
RECORD = "clinical record"
AGE_BANDS = (40.0, 65.0, 80.0)
MAX_VALUES = 6
"""A numeric column with at most this many distinct values (such as acuity) is grouped by value, others by range."""

MIN_PATIENTS = 30
MIN_BOXES = 10
MOST_TELLING = 4
"""A group of so few patients is left out: its row would tell about single ones."""


@dataclass(frozen=True)
class Subgroup:
    """A subgroup: its images as (I,) bool, and its counts of images, patients and boxes (without crowds)."""

    column: str
    group: str
    members: np.ndarray
    images: int
    patients: int
    boxes: int

    @property
    def warning(self) -> str:
        """Say why the group is too small to rely on; empty if it is not."""
        if self.boxes == 0:
            return "no ground-truth box: nothing to find"
        few = [f"{n} {what}" for n, what, least in (
            (self.patients, "patients", MIN_PATIENTS), (self.boxes, "boxes", MIN_BOXES)) if n < least]  # fmt: skip
        return f"small group ({' and '.join(few)}): not reliable" if few else ""


def list_subgroups(images: FoldedImages, columns: Sequence[str] | None = None) -> list[Subgroup]:
    """Divide the images by each column, without groups of at most :data:`MOST_TELLING` patients.

    By default by all clinical columns and :data:`RECORD`.
    """
    wanted = [*clinical_column_names(images.whole.images), RECORD] if columns is None else columns
    groups = [
        Subgroup(column, name, members, int(members.sum()), len(np.unique(images.patients[members])),
                 int(images.boxes[members].sum()))
        for column in wanted
        for name, members in groups_of(images.whole, column).items()
    ]  # fmt: skip
    return [group for group in groups if group.patients > MOST_TELLING]


def groups_of(ground_truth: GroundTruth, column: str) -> dict[str, np.ndarray]:
    """Divide the images by a clinical column.

    Each category, and each of at most :data:`MAX_VALUES` distinct numbers, is a group; other numbers are cut at
    :data:`AGE_BANDS` for ``age``, else at tertiles. Images without a value form the group ``"missing"``. The column
    :data:`RECORD` separates records with any value from those without.

    Returns:
        group name → (I,) bool; each image is in exactly one group, and no group is empty.

    Raises:
        ValueError: no image has the column.
    """
    records = [image.get("clinical") or {} for image in ground_truth.images]
    if column == RECORD:
        present = np.array([any(not is_missing(v) for v in record.values()) for record in records], dtype=bool)
        return _not_empty({"present": present, MISSING: ~present})
    if column not in (known := clinical_column_names(ground_truth.images)):
        raise ValueError(f"no image has a clinical column '{column}'; there are {known}")
    values = [record.get(column) for record in records]
    missing = np.array([is_missing(v) for v in values], dtype=bool)
    present = [v for v in values if not is_missing(v)]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present)
    distinct = sorted(set(present) if numeric else {str(v) for v in present})
    if not numeric:
        groups = {v: np.array([not m and str(x) == v for x, m in zip(values, missing, strict=True)]) for v in distinct}
    else:
        numbers = np.array([math.nan if m else float(v) for v, m in zip(values, missing, strict=True)])
        if len(distinct) <= MAX_VALUES:
            groups = {f"{v:g}": numbers == v for v in distinct}
        else:
            tertiles = np.unique(np.quantile(numbers[np.isfinite(numbers)], [1 / 3, 2 / 3])).tolist()
            groups = _bands(numbers, AGE_BANDS if column == "age" else tertiles)
    return _not_empty({**groups, MISSING: missing})


def _bands(numbers: np.ndarray, edges: Sequence[float]) -> dict[str, np.ndarray]:
    """Make bands that include their lower edge."""
    bands = {f"< {edges[0]:.4g}": numbers < edges[0]}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        bands[f"{low:.4g} – < {high:.4g}"] = (numbers >= low) & (numbers < high)
    bands[f"≥ {edges[-1]:.4g}"] = numbers >= edges[-1]
    return bands


def _not_empty(groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: members for name, members in groups.items() if members.any()}
