"""How far a predicted region covers an annotated one: IoU and IoBB.

Shapes: D detections, G ground-truth regions, P pairs of one detection and one ground-truth region.
Boxes are XYWH in pixels, float64.

IoU is intersection / union.  IoBB is intersection / area of the *prediction* (ChestX-ray8, Wang et al. 2017,
and the MDF-Net paper): a tiny box inside a lesion has IoBB = 1, so IoU is always to be read beside it.  COCO's IoU
against a crowd region is intersection / area(detection), i.e. IoBB exactly; that is how it is computed here, for boxes
and for masks, by pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_utils

OVERLAPS = ("iobb", "iou")


def check_overlap(overlap: str) -> None:
    """Raise ``ValueError`` unless ``overlap`` is one of :data:`OVERLAPS`."""
    if overlap not in OVERLAPS:
        raise ValueError(f"overlap '{overlap}' is not one of {OVERLAPS}")


def overlap_matrix(
    detections: np.ndarray | Sequence[dict],
    ground_truth: np.ndarray | Sequence[dict],
    overlap: str = "iobb",
    crowd: Sequence[bool] | None = None,
) -> np.ndarray:
    """Overlap of every detection with every ground-truth region.

    Args:
        detections: (D, 4) boxes, or D masks as COCO run-length encodings.
        ground_truth: (G, 4) boxes, or G masks, of the same kind.
        overlap: ``"iobb"`` or ``"iou"``.
        crowd: G flags; against a crowd region both overlaps are intersection / area(detection), as in COCO.

    Returns:
        (D, G) float64 in [0, 1]; 0 where a region has no area.
    """
    check_overlap(overlap)
    if len(detections) == 0 or len(ground_truth) == 0:
        return np.zeros((len(detections), len(ground_truth)))
    over_detection = [1] * len(ground_truth) if overlap == "iobb" else _crowd_flags(crowd, len(ground_truth))
    if isinstance(detections, np.ndarray):
        detections = np.ascontiguousarray(detections, dtype=np.float64)
        ground_truth = np.ascontiguousarray(ground_truth, dtype=np.float64)
    matrix = np.asarray(mask_utils.iou(detections, ground_truth, over_detection), dtype=np.float64)
    return np.nan_to_num(matrix, nan=0.0)  # pycocotools divides 0 by 0 for empty masks


def paired_box_overlaps(
    detections: np.ndarray, ground_truth: np.ndarray, overlap: str = "iobb", crowd: np.ndarray | None = None
) -> np.ndarray:
    """Overlap of the p-th detection with the p-th ground-truth box, vectorized over all pairs of a dataset.

    The operations and their order are those of pycocotools' ``bbIou``, so the values are the same to the last bit.

    Args:
        detections, ground_truth: (P, 4) boxes.
        overlap: ``"iobb"`` or ``"iou"``.
        crowd: (P,) flags of the ground truth, see :func:`overlap_matrix`.

    Returns:
        (P,) float64 in [0, 1].
    """
    check_overlap(overlap)
    dx, dy, dw, dh = np.asarray(detections, dtype=np.float64).T
    gx, gy, gw, gh = np.asarray(ground_truth, dtype=np.float64).T
    width = np.minimum(dw + dx, gw + gx) - np.maximum(dx, gx)
    height = np.minimum(dh + dy, gh + gy) - np.maximum(dy, gy)
    touching = (width > 0) & (height > 0)
    intersection = np.where(touching, width * height, 0.0)
    area = dw * dh
    union = area if overlap == "iobb" else area + gw * gh - intersection
    if overlap == "iou" and crowd is not None:
        union = np.where(crowd, area, union)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=touching & (union > 0))


def _crowd_flags(crowd: Sequence[bool] | None, length: int) -> list[int]:
    return [0] * length if crowd is None else [int(c) for c in crowd]
