"""Average precision and recall from matches, by COCO's 101-point rule, for any weighting of the images.

Shapes: B weightings of the images (1 for the plain metric; one for each resample in a bootstrap), I images,
T overlap thresholds, K classes.

Defined where COCO leaves a hole:

* a class without ground-truth boxes: NaN for the class, left out of the mean over classes;
* no class with ground-truth boxes at all: NaN everywhere;
* a class with ground-truth boxes and no detections, or no detections at all: AP = AR = 0;
* an image without ground-truth boxes (healthy): its detections are false positives, no detections cost nothing;
* an image without either: no effect.
"""

from __future__ import annotations

import numpy as np

from mdf_detectron.evaluation.matching import Matches

RECALL_POINTS = np.linspace(0.0, 1.0, 101)


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute AP and AR of each class at each threshold.

    A weight of 2 counts an image twice, exactly as if it stood in the dataset twice (each detection's copies side by
    side, where scores are equal); a weight of 0 leaves it out.

    Args:
        matches: see :func:`~mdf_detectron.evaluation.matching.match`.
        weights: (I,) or (B, I) non-negative; all ones when None.

    Returns:
        ap, ar: (B, T, K) float64 in [0, 1], NaN where undefined; (T, K) unless ``weights`` is (B, I).
    """
    single = weights is None or np.ndim(weights) == 1
    weights = np.ones((1, matches.num_images)) if weights is None else np.atleast_2d(np.asarray(weights, dtype=float))
    shape = (len(weights), len(matches.thresholds), len(matches.class_names))
    ap, ar = np.full(shape, np.nan), np.full(shape, np.nan)
    true_positive = matches.true_positive
    for k in range(shape[2]):
        positives = _positives(matches, k, weights)
        begin, end = np.searchsorted(matches.category, [k, k + 1])
        class_weights = weights[:, matches.image[begin:end]]
        ap[:, :, k], ar[:, :, k] = _class_metrics(
            true_positive[:, begin:end], matches.ignored[:, begin:end], class_weights, positives
        )
    return (ap[0], ar[0]) if single else (ap, ar)


def precision_recall_curve(matches: Matches, class_index: int, threshold: float) -> tuple[np.ndarray, ...]:
    """Compute the precision-recall curve of one class, for drawing.

    Returns:
        recall, precision, score: (n,) after each of the class's n detections that count, highest score first;
        recall is NaN for a class without ground truth.
    """
    row = matches.threshold_index(threshold)
    counted = (matches.category == class_index) & ~matches.ignored[row]
    hits = np.cumsum(matches.true_positive[row, counted])
    positives = int(((matches.gt_category == class_index) & ~matches.gt_ignored).sum())
    recall = hits / positives if positives else np.full(len(hits), np.nan)
    return recall, hits / np.arange(1, len(hits) + 1), matches.scores[counted]


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Average the defined classes over the last axis; NaN where none is defined."""
    defined = np.isfinite(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _positives(matches: Matches, class_index: int, weights: np.ndarray) -> np.ndarray:
    """Sum the weights of the class's ground-truth boxes that are not ignored, (B,)."""
    to_find = (matches.gt_category == class_index) & ~matches.gt_ignored
    return weights[:, matches.gt_image[to_find]].sum(axis=1)


def _class_metrics(true_positive, ignored, weights, positives) -> tuple[np.ndarray, np.ndarray]:
    """Compute AP and AR of one class, (B, T) each, from (T, n) outcomes of its n detections and (B, n) weights.

    Precision has its local maxima at true positives only, so the curve is computed only there.
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
