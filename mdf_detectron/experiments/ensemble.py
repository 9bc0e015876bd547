"""An ensemble of trainings that differ in their seed: their boxes on an image fused by weighted box fusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ensemble_boxes import weighted_boxes_fusion

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import MAX_DETS

FUSION_IOU = 0.5
"""Intersection over union with the running mean from which a box joins it."""


def fuse_detections(truth: GroundTruth, detections: Sequence[Detections], iou: float = FUSION_IOU) -> Detections:
    """Fuse the boxes of several models, class by class (Solovyev et al., 2021).

    A box's score is the mean of those that joined it, times the share of the models that it came from; an image keeps
    the ten best.

    Args:
        truth: whose images they are of.
        detections: of each model.
    """
    images, categories, boxes, scores = [], [], [], []
    for image in range(truth.num_images):
        own = [np.flatnonzero(one.image == image) for one in detections]
        if not sum(map(len, own)):
            continue
        corners = [_corners(one.boxes[index]) for one, index in zip(detections, own, strict=True)]
        every = np.concatenate(corners)
        low, side = every.min(), max(float(np.ptp(every)), 1.0)  # the package wants 0 to 1; no overlap changes
        fused, score, label = weighted_boxes_fusion(
            [((one - low) / side).tolist() for one in corners],
            [one.scores[index].tolist() for one, index in zip(detections, own, strict=True)],
            [one.category[index].tolist() for one, index in zip(detections, own, strict=True)],
            iou_thr=iou,
        )
        best = np.argsort(-score, kind="stable")[:MAX_DETS]
        fused = fused[best] * side + low
        images.append(np.full(len(best), image))
        categories.append(label[best].astype(np.int64))
        boxes.append(np.column_stack([fused[:, :2], fused[:, 2:] - fused[:, :2]]))
        scores.append(score[best])
    if not images:
        return Detections(*np.zeros((2, 0), dtype=np.int64), np.zeros((0, 4)), np.zeros(0), None)
    return Detections(*map(np.concatenate, (images, categories, boxes, scores)), None)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
