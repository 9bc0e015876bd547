"""Free-response operating characteristic: sensitivity against false positives an image.

A *mark* is a detection.  It hits a lesion of its own class when it overlaps it enough (IoU or IoBB) or when its center
lies in the lesion's box; marks go by falling score and every lesion is hit once.  A further mark on a lesion that
is hit already is neither a hit nor a false positive (as in LUNA16); nor is a mark on a crowd region.  Every other mark
is a false positive.  The number of images includes the healthy ones.  Marks of equal score enter together, so that
no order among them is made up.

Shapes: D marks, G lesions, K classes, I images, B weightings of the images, R false-positive rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import OVERLAPS, greedy, keep_best, paired_box_overlaps, same_group_pairs

FALSE_POSITIVE_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives an image at which sensitivity is read; their mean is the usual single number."""

CRITERIA = (*OVERLAPS, "center")


@dataclass(frozen=True)
class Marks:
    """Marks that count, by falling score, and the lesions.

    Attributes:
        scores, image, category: (D,).
        hit: (D,) bool; all other marks are false positives.
        lesion_image, lesion_category: (G,).
        num_images: I.
    """

    scores: np.ndarray
    image: np.ndarray
    category: np.ndarray
    hit: np.ndarray
    lesion_image: np.ndarray
    lesion_category: np.ndarray
    num_images: int


def froc_marks(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    criterion: str = "iobb",
    threshold: float = 0.5,
    max_dets: int | None = None,
) -> Marks:
    """Tell hits from false positives.

    Args:
        criterion: ``"iobb"``, ``"iou"`` or ``"center"`` (of the mark, edges of the lesion's box included).
        threshold: overlap that a hit needs; without meaning for ``"center"``.
        max_dets: marks of one image and class that count; all when None.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion '{criterion}' is not one of {CRITERIA}")
    kept, rank = keep_best(detections, max_dets or max(len(detections), 1))
    groups = ground_truth.num_classes
    pair_det, pair_gt = same_group_pairs(
        detections.image[kept] * groups + detections.category[kept],
        ground_truth.image * groups + ground_truth.category,
    )
    boxes, regions = detections.boxes[kept][pair_det], ground_truth.boxes[pair_gt]
    if criterion == "center":
        near, threshold = _center_in(boxes, regions).astype(float), 1.0
    else:
        near = paired_box_overlaps(boxes, regions, criterion, ground_truth.crowd[pair_gt])
    crowd = ground_truth.crowd
    found = greedy(pair_det, pair_gt, near, rank, np.array([threshold]), crowd, crowd)[0]
    hit = (found >= 0) & ~np.append(crowd, False)[found]
    touches = np.zeros(len(kept), dtype=bool)
    touches[pair_det[near >= min(threshold, 1 - 1e-10)]] = True
    counted = np.flatnonzero(hit | ~touches)
    counted = counted[np.argsort(-detections.scores[kept[counted]], kind="stable")]
    return Marks(
        scores=detections.scores[kept[counted]],
        image=detections.image[kept[counted]],
        category=detections.category[kept[counted]],
        hit=hit[counted],
        lesion_image=ground_truth.image[~crowd],
        lesion_category=ground_truth.category[~crowd],
        num_images=ground_truth.num_images,
    )


def froc_curve(marks: Marks, class_index: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The operating points.

    Args:
        class_index: one class, or None for all classes pooled.

    Returns:
        false positives an image, sensitivity (NaN without lesions), score threshold; each (n + 1,) for the n distinct
        scores, starting at no marks: 0, 0, infinity.
    """
    false_positives, sensitivity, scores = _curves(marks, class_index, np.ones((1, marks.num_images)))
    return false_positives[0], sensitivity[0], scores


def sensitivity_at(
    marks: Marks,
    rates: tuple[float, ...] = FALSE_POSITIVE_RATES,
    class_index: int | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Best sensitivity among the operating points with at most the given false positives an image.

    No interpolation: only what a score threshold can attain counts.  Where the marks make fewer false positives than
    the rate, it is the sensitivity of all marks.

    Args:
        weights: (B, I) weights of the images, see
            :func:`~mdf_detectron.evaluation.metrics.average_precision`; all ones when None.

    Returns:
        (R,), or (B, R) with ``weights``; NaN without lesions.
    """
    batch = np.ones((1, marks.num_images)) if weights is None else np.asarray(weights, dtype=float)
    false_positives, sensitivity, _ = _curves(marks, class_index, batch)
    out = np.empty((len(batch), len(rates)))
    for r, rate in enumerate(rates):
        last = (false_positives <= rate + 1e-12).sum(axis=1) - 1
        out[:, r] = sensitivity[np.arange(len(batch)), last]
    return out[0] if weights is None else out


def _curves(marks: Marks, class_index: int | None, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """(B, n + 1) false positives an image and sensitivities, (n + 1,) scores."""
    chosen = slice(None) if class_index is None else marks.category == class_index
    lesions = marks.lesion_image if class_index is None else marks.lesion_image[marks.lesion_category == class_index]
    scores, hit = marks.scores[chosen], marks.hit[chosen]
    mark_weights = weights[:, marks.image[chosen]]
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # the last mark of each score
    start = np.zeros((len(weights), 1))
    false_positives = np.hstack([start, np.cumsum(mark_weights * ~hit, axis=1)[:, ends]])
    hits = np.hstack([start, np.cumsum(mark_weights * hit, axis=1)[:, ends]])
    images = np.maximum(weights.sum(axis=1, keepdims=True), np.spacing(1))
    total = weights[:, lesions].sum(axis=1, keepdims=True)
    sensitivity = np.divide(hits, total, out=np.full(hits.shape, np.nan), where=total > 0)
    return false_positives / images, sensitivity, np.append(np.inf, scores[ends])


def _center_in(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    center = boxes[:, :2] + boxes[:, 2:] / 2
    return ((center >= regions[:, :2]) & (center <= regions[:, :2] + regions[:, 2:])).all(axis=1)
