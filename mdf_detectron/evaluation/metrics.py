"""The metrics: one object each, in one list that logs, tables, charts, tests and reports iterate over.

To add one, append it to :data:`METRICS`; for example, AP at an overlap of 0.25::

    METRICS.append(Metric("AP25", values=ap, thresholds=(0.25,)))

Every metric is a share in [0, 1], larger is better, and is reported times 100. Each table is matched once, at the
union of all thresholds; metrics are computed from the matches for any weighting of the images. Average precision and
recall follow COCO's 101-point rule, with these edge cases:

* a class without ground-truth boxes: NaN for the class, left out of the mean over classes;
* no class with ground-truth boxes at all: NaN everywhere;
* a class with ground-truth boxes and no detections: AP = AR = 0;
* an image without ground-truth boxes (healthy): its detections are false positives; without detections, no effect.

Shapes: B weightings of the images (1 for the plain metric, one per resample in a bootstrap), I images, T overlap
thresholds, K classes, M reported values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mdf_detectron.errors import find_doubled
from mdf_detectron.evaluation.matching import COCO_THRESHOLDS, Matches, mean_of_defined

RECALL_POINTS = np.linspace(0.0, 1.0, 101)


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute AP and AR of each class at each threshold.

    A weight of 2 counts an image as if it were in the dataset twice (copies of a detection are adjacent among equal
    scores); a weight of 0 leaves it out.

    Args:
        weights: (B, I), non-negative; None: all ones.

    Returns:
        ap, ar: (B, T, K) float64 in [0, 1], NaN where undefined; (T, K) without weights.
    """
    if weights is None:
        return tuple(one[0] for one in average_precision(matches, np.ones((1, matches.num_images))))
    weights = np.asarray(weights, dtype=float)
    shape = (len(weights), len(matches.thresholds), len(matches.class_names))
    ap, ar = np.full(shape, np.nan), np.full(shape, np.nan)
    true_positive = matches.true_positive
    for k in range(shape[2]):
        to_find = (matches.gt_category == k) & ~matches.gt_ignored
        positives = weights[:, matches.gt_image[to_find]].sum(axis=1)
        begin, end = np.searchsorted(matches.category, [k, k + 1])
        class_weights = weights[:, matches.image[begin:end]]
        ap[:, :, k], ar[:, :, k] = _class_metrics(
            true_positive[:, begin:end], matches.ignored[:, begin:end], class_weights, positives
        )
    return ap, ar


def precision_recall_curve(matches: Matches, class_index: int, threshold: float) -> tuple[np.ndarray, ...]:
    """Compute the precision-recall curve of one class.

    Returns:
        recall, precision, score: (n,) after each of the class's n detections that are not ignored, by falling score;
        recall is NaN for a class without ground truth.
    """
    row = matches.threshold_index(threshold)
    counted = (matches.category == class_index) & ~matches.ignored[row]
    hits = np.cumsum(matches.true_positive[row, counted])
    positives = int(((matches.gt_category == class_index) & ~matches.gt_ignored).sum())
    recall = hits / positives if positives else np.full(len(hits), np.nan)
    return recall, hits / np.arange(1, len(hits) + 1), matches.scores[counted]


def _class_metrics(true_positive, ignored, weights, positives) -> tuple[np.ndarray, np.ndarray]:
    """Compute (B, T) AP and AR of one class, from (T, n) outcomes of its n detections and (B, n) weights.

    Precision has local maxima only at true positives, so the curve is computed only there.
    """
    num_thresholds = len(true_positive)
    ap, ar = np.full((len(weights), num_thresholds), np.nan), np.full((len(weights), num_thresholds), np.nan)
    defined = positives > 0
    scale = np.where(defined, positives, 1.0)[:, None]
    all_counted = np.cumsum(weights, axis=1)
    for t in range(num_thresholds):
        counted = np.cumsum(weights * ~ignored[t], axis=1) if ignored[t].any() else all_counted
        at = np.flatnonzero(true_positive[t])
        hits = np.cumsum(weights[:, at], axis=1)
        precision = hits / np.maximum(counted[:, at], np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALL_POINTS, hits / scale, side="right")
        ap[:, t] = (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALL_POINTS)
        ar[:, t] = hits[:, -1] / scale[:, 0] if len(at) else 0.0
    ap[~defined], ar[~defined] = np.nan, np.nan
    return ap, ar


@dataclass(frozen=True)
class Scores:
    """The input of a metric, at its own thresholds.

    Attributes:
        matches: of one table, at the thresholds of all metrics.
        rows: T indices of the metric's thresholds in ``matches.thresholds``.
        weights: (B, I).
        ap, ar: (B, T, K) of :func:`average_precision`.
    """

    matches: Matches
    rows: tuple[int, ...]
    weights: np.ndarray
    ap: np.ndarray
    ar: np.ndarray


def ap(scores: Scores) -> np.ndarray:
    """Return average precision, (B, T, K)."""
    return scores.ap


def ar(scores: Scores) -> np.ndarray:
    """Return the recall of all detections that are not ignored, (B, T, K)."""
    return scores.ar


def images_with_boxes(matches: Matches) -> np.ndarray:
    """Find the images with a ground-truth box of any class, then of each class: (1 + K, I) bool."""
    to_find = ~matches.gt_ignored
    image, category = matches.gt_image[to_find], matches.gt_category[to_find]
    found = np.zeros((1 + len(matches.class_names), matches.num_images), dtype=bool)
    found[0, image] = True
    found[1 + category, image] = True
    return found


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: key in ``metrics.json``; the value of a class is ``"<name>-<class>"``.
        values: :class:`Scores` → (B, T, K) in [0, 1], NaN where undefined. A class's value is the mean over T, the
            overall value the mean over T and the defined classes.
        thresholds: T least overlaps of a true positive.
        support: matches → (1 + K, I) bool: images on which the overall value and each class's value depend; there is
            no interval with fewer than two patients among them.
        title: heading in tables and charts; the name by default.
        per_class: also report it for each class.
        charted: draw it in the chart of metrics.
        in_subgroups: compute it in the subgroup analysis.

    Raises:
        ValueError: no threshold, or one outside [0, 1].
    """

    name: str
    values: Callable[[Scores], np.ndarray]
    thresholds: tuple[float, ...]
    support: Callable[[Matches], np.ndarray] = images_with_boxes
    title: str = ""
    per_class: bool = True
    charted: bool = True
    in_subgroups: bool = True

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"metric '{self.name}' needs overlap thresholds in [0, 1], got {self.thresholds}")

    @property
    def heading(self) -> str:
        return self.title or self.name


_COCO = tuple(COCO_THRESHOLDS.tolist())

METRICS: list[Metric] = [
    Metric("AP", ap, _COCO, title="AP 50:95", in_subgroups=False),
    Metric("AP50", ap, (0.5,)),
    Metric("AP75", ap, (0.75,), per_class=False, charted=False, in_subgroups=False),
    Metric("AR", ar, _COCO, title="AR 50:95", charted=False, in_subgroups=False),
    Metric("AR50", ar, (0.5,)),
]
"""All metrics, in the order of the report."""

HEADLINE = ("bbox_iobb", "AP50")
"""Table and metric that decide the verdict of a comparison."""

COUNT_THRESHOLD = 0.5
"""Least overlap of a true positive in counts and precision-recall curves."""


def overlap_thresholds() -> np.ndarray:
    """Collect the distinct thresholds of all metrics and counts, sorted, to match only once."""
    found = [COUNT_THRESHOLD]
    for threshold in (t for metric in METRICS for t in metric.thresholds):
        if not any(abs(threshold - other) < 1e-9 for other in found):
            found.append(threshold)
    return np.array(sorted(found))


def subgroup_metrics() -> list[Metric]:
    """Select the metrics of the subgroup analysis, without values per class."""
    return [replace(metric, per_class=False) for metric in METRICS if metric.in_subgroups]


def describe_metrics() -> list[dict[str, Any]]:
    """Describe the metrics as JSON, so that reports of saved results do not depend on :data:`METRICS`."""
    keys = ("name", "heading", "per_class", "charted", "in_subgroups")
    return [{key: getattr(metric, key) for key in keys} for metric in METRICS]


def metric_names(class_names: Sequence[str], metrics: Sequence[Metric] | None = None) -> list[str]:
    """Name the M reported values, first overall, then of each class; raise ``ValueError`` if two names are equal."""
    metrics = METRICS if metrics is None else metrics
    names = [metric.name for metric in metrics]
    names += [f"{metric.name}-{name}" for name in class_names for metric in metrics if metric.per_class]
    if doubled := find_doubled(names):
        raise ValueError(f"two metrics are named '{doubled[0]}'; names in METRICS and of classes must differ")
    return names


def metric_values(
    matches: Matches, weights: np.ndarray | None = None, metrics: Sequence[Metric] | None = None
) -> tuple[list[str], np.ndarray]:
    """Compute the metrics of one table.

    Args:
        matches: at least at the metrics' thresholds.
        weights: (B, I), see :func:`average_precision`; None: all ones.
        metrics: None: :data:`METRICS`.

    Returns:
        M names; (M,) or (B, M) float64, times 100.

    Raises:
        ValueError: ``matches`` lacks a threshold, or a metric's values have the wrong shape.
    """
    metrics = METRICS if metrics is None else metrics
    single = weights is None
    weights = np.ones((1, matches.num_images)) if single else np.asarray(weights, dtype=float)
    all_ap, all_ar = average_precision(matches, weights)
    overall, of_class = [], [[] for _ in matches.class_names]
    for metric in metrics:
        rows = tuple(matches.threshold_index(threshold) for threshold in metric.thresholds)
        at_rows = (np.take(values, rows, axis=1) for values in (all_ap, all_ar))
        values = metric.values(Scores(matches, rows, weights, *at_rows))
        shape = (len(weights), len(rows), len(matches.class_names))
        if np.shape(values) != shape:
            raise ValueError(f"metric '{metric.name}' gives values of shape {np.shape(values)}, expected {shape}")
        overall.append(mean_of_defined(values, -1).mean(axis=-1))
        if metric.per_class:
            for k, columns in enumerate(of_class):
                columns.append(values[..., k].mean(axis=-1))
    columns = [*overall, *(column for columns in of_class for column in columns)]
    out = 100 * np.stack(columns, axis=-1)
    return metric_names(matches.class_names, metrics), out[0] if single else out


def metric_support(matches: Matches, metrics: Sequence[Metric] | None = None) -> np.ndarray:
    """Find the images on which each value of :func:`metric_values` depends: (M, I) bool."""
    metrics = METRICS if metrics is None else metrics
    supports = [(metric, metric.support(matches)) for metric in metrics]
    rows = [support[0] for _, support in supports]
    for k in range(len(matches.class_names)):
        rows += [support[1 + k] for metric, support in supports if metric.per_class]
    return np.array(rows, dtype=bool).reshape(len(rows), matches.num_images)
