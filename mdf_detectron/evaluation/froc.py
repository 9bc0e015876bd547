"""Free-response ROC (FROC): sensitivity against false positives per image, healthy images included.

A detection is a true positive if it overlaps a ground-truth box of its class enough (IoU or IoBB), or if its center
lies in that box. Detections are matched by falling score and each box at most once; a further detection of a matched
box (as in LUNA16) or a detection on a crowd is ignored. Every other detection is a false positive. Detections of equal
score enter the curve together.

Shapes: D detections, G ground-truth boxes, K classes, I images, B weightings of the images, R false-positive rates.
"""

from dataclasses import dataclass

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import OVERLAPS, greedy, keep_best, paired_box_overlaps, same_group_pairs

FALSE_POSITIVE_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per image at which sensitivity is read; the mean over them is the usual summary."""

CRITERIA = (*OVERLAPS, "center")


@dataclass(frozen=True)
class FrocDetections:
    """True and false positives by falling score, (D,) each, and ground-truth boxes without crowds, (G,) each."""

    scores: np.ndarray
    image: np.ndarray
    category: np.ndarray
    true_positive: np.ndarray
    gt_image: np.ndarray
    gt_category: np.ndarray
    num_images: int


def froc_detections(ground_truth: GroundTruth, detections: Detections, *, criterion: str = "iobb") -> FrocDetections:
    """Divide detections into true and false positives.

    ``criterion`` is ``"iobb"`` or ``"iou"`` (at least 0.5), or ``"center"`` (in the ground-truth box, edges included).
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion '{criterion}' is not one of {CRITERIA}")
    kept, rank = keep_best(detections, max(len(detections), 1))
    groups = ground_truth.num_classes
    pair_det, pair_gt = same_group_pairs(
        detections.image[kept] * groups + detections.category[kept], ground_truth.image * groups + ground_truth.category
    )
    boxes, gt_boxes = detections.boxes[kept][pair_det], ground_truth.boxes[pair_gt]
    if criterion == "center":
        center, (low, size) = boxes[:, :2] + boxes[:, 2:] / 2, np.hsplit(gt_boxes, 2)
        near, threshold = ((center >= low) & (center <= low + size)).all(axis=1).astype(float), 1.0
    else:
        near, threshold = paired_box_overlaps(boxes, gt_boxes, criterion, ground_truth.crowd[pair_gt]), 0.5
    crowd = ground_truth.crowd
    matched = greedy(pair_det, pair_gt, near, rank, np.array([threshold]), crowd, crowd)[0]
    true_positive = (matched >= 0) & ~np.append(crowd, False)[matched]
    touches = np.zeros(len(kept), dtype=bool)
    touches[pair_det[near >= min(threshold, 1 - 1e-10)]] = True
    counted = np.flatnonzero(true_positive | ~touches)
    counted = counted[np.argsort(-detections.scores[kept[counted]], kind="stable")]
    return FrocDetections(
        scores=detections.scores[kept[counted]],
        image=detections.image[kept[counted]],
        category=detections.category[kept[counted]],
        true_positive=true_positive[counted],
        gt_image=ground_truth.image[~crowd],
        gt_category=ground_truth.category[~crowd],
        num_images=ground_truth.num_images,
    )


def froc_curve(detections: FrocDetections, class_index: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the FROC curve of one class, or of all classes pooled (None).

    Returns:
        False positives per image, sensitivity (NaN without ground-truth boxes) and score threshold, (n + 1,) each for
        n distinct scores; the first point (0, 0, infinity) has no detections.
    """
    false_positives, sensitivity, scores = _curves(detections, class_index, np.ones((1, detections.num_images)))
    return false_positives[0], sensitivity[0], scores


def sensitivity_at(
    detections: FrocDetections, class_index: int | None = None, weights: np.ndarray | None = None
) -> np.ndarray:
    """Find the best sensitivity that a score threshold attains within each of :data:`FALSE_POSITIVE_RATES`.

    Nothing is interpolated; if all detections have fewer false positives than the rate, all are used.

    Args:
        class_index: None: all classes pooled.
        weights: (B, I), see :func:`~mdf_detectron.evaluation.metrics.average_precision`; None: all ones.

    Returns:
        (R,), or (B, R) with ``weights``; NaN without ground-truth boxes.
    """
    batch = np.ones((1, detections.num_images)) if weights is None else np.asarray(weights, dtype=float)
    false_positives, sensitivity, _ = _curves(detections, class_index, batch)
    out = np.empty((len(batch), len(FALSE_POSITIVE_RATES)))
    for r, rate in enumerate(FALSE_POSITIVE_RATES):
        last = (false_positives <= rate + 1e-12).sum(axis=1) - 1
        out[:, r] = sensitivity[np.arange(len(batch)), last]
    return out[0] if weights is None else out


def _curves(detections: FrocDetections, class_index: int | None, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Compute (B, n + 1) false positives per image and sensitivities, and (n + 1,) score thresholds."""
    chosen, gt_image = slice(None), detections.gt_image
    if class_index is not None:
        chosen, gt_image = detections.category == class_index, gt_image[detections.gt_category == class_index]
    scores, true_positive = detections.scores[chosen], detections.true_positive[chosen]
    own_weights = weights[:, detections.image[chosen]]
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # the last detection of each score
    start = np.zeros((len(weights), 1))
    false_positives = np.hstack([start, np.cumsum(own_weights * ~true_positive, axis=1)[:, ends]])
    true_positives = np.hstack([start, np.cumsum(own_weights * true_positive, axis=1)[:, ends]])
    images = np.maximum(weights.sum(axis=1, keepdims=True), np.spacing(1))
    total = weights[:, gt_image].sum(axis=1, keepdims=True)
    sensitivity = np.divide(true_positives, total, out=np.full(true_positives.shape, np.nan), where=total > 0)
    return false_positives / images, sensitivity, np.append(np.inf, scores[ends])
