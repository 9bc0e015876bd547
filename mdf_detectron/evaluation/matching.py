"""Match detections with ground-truth boxes or masks, by IoU or IoBB.

Shapes: D detections, G ground-truth boxes, P pairs of one detection and one ground-truth box, I images, K classes,
T overlap thresholds. Boxes are XYWH in pixels, float64.

IoU is intersection / union. IoBB is intersection / area of the *prediction* (ChestX-ray8, Wang et al. 2017, and the
MDF-Net paper): a tiny box inside a ground-truth box has IoBB = 1, so read it together with IoU. COCO's IoU against a
crowd box is the same formula, so pycocotools computes IoBB of boxes and masks here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_utils

from mdf_detectron.evaluation.coco import Detections, GroundTruth

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
    """Compute the overlap of every detection with every ground-truth box.

    Args:
        detections: (D, 4) boxes, or D masks as COCO run-length encodings.
        ground_truth: (G, 4) boxes or G masks, like ``detections``.
        crowd: G flags; against a crowd both overlaps are intersection / area(detection), as in COCO.

    Returns:
        (D, G) float64 in [0, 1]; 0 where either side has no area.
    """
    check_overlap(overlap)
    if len(detections) == 0 or len(ground_truth) == 0:
        return np.zeros((len(detections), len(ground_truth)))
    over_detection = np.broadcast_to(overlap == "iobb" or (False if crowd is None else crowd), len(ground_truth))
    if isinstance(detections, np.ndarray):
        detections = np.ascontiguousarray(detections, dtype=np.float64)
        ground_truth = np.ascontiguousarray(ground_truth, dtype=np.float64)
    matrix = np.asarray(mask_utils.iou(detections, ground_truth, over_detection.astype(int).tolist()), dtype=np.float64)
    return np.nan_to_num(matrix, nan=0.0)  # pycocotools divides 0 by 0 for empty masks


def paired_box_overlaps(
    detections: np.ndarray, ground_truth: np.ndarray, overlap: str = "iobb", crowd: np.ndarray | None = None
) -> np.ndarray:
    """Compute the overlap of each detection with the ground-truth box at the same index: (P,) float64 in [0, 1].

    The order of operations is that of pycocotools' ``bbIou``, so the values are the same to the last bit.

    Args:
        detections, ground_truth: (P, 4) boxes.
        crowd: (P,) flags of the ground truth, see :func:`overlap_matrix`.
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


def to_corners(boxes: np.ndarray) -> np.ndarray:
    """Convert (N, 4) XYWH boxes to XYXY."""
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def to_sizes(corners: np.ndarray) -> np.ndarray:
    """Convert (N, 4) XYXY boxes to XYWH."""
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""0.50:0.95 in steps of 0.05."""

MAX_DETS = 10

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's area ranges, pixels²."""


@dataclass(frozen=True)
class Matches:
    """The matches of one dataset, from which every metric is computed.

    Detections are sorted by class, then by falling score; equal scores by image, then by their order in the file.

    Attributes:
        thresholds: (T,).
        class_names: K.
        num_images: I.
        scores, image, category: (D,) of the detections.
        source: (D,) index of each detection in its :class:`Detections`.
        matched_box: (T, D) index of the ground-truth box that the detection matched, or -1.
        ignored: (T, D) True where the detection is neither a true nor a false positive.
        gt_image, gt_category: (G,) of the ground-truth boxes.
        gt_ignored: (G,) True for boxes that cannot be false negatives (crowds and areas out of range).
    """

    thresholds: np.ndarray
    class_names: tuple[str, ...]
    num_images: int
    scores: np.ndarray
    image: np.ndarray
    category: np.ndarray
    source: np.ndarray
    matched_box: np.ndarray
    ignored: np.ndarray
    gt_image: np.ndarray
    gt_category: np.ndarray
    gt_ignored: np.ndarray

    @property
    def true_positive(self) -> np.ndarray:
        """(T, D) bool."""
        return (self.matched_box >= 0) & ~self.ignored

    @property
    def false_positive(self) -> np.ndarray:
        """(T, D) bool."""
        return (self.matched_box < 0) & ~self.ignored

    def threshold_index(self, threshold: float) -> int:
        """Return the index of a threshold; raise ``ValueError`` if it is absent."""
        near = np.flatnonzero(np.isclose(self.thresholds, threshold, atol=1e-9))
        if len(near) == 0:
            raise ValueError(f"no matches at overlap {threshold:g}; there are {np.round(self.thresholds, 4).tolist()}")
        return int(near[0])


def match(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    overlap: str = "iobb",
    iou_type: str = "bbox",
    thresholds: np.ndarray | list[float] = COCO_THRESHOLDS,
    max_dets: int = MAX_DETS,
    area: str | tuple[float, float] = "all",
) -> Matches:
    """Match detections with the ground truth of their image and class, greedily by score.

    Args:
        overlap: ``"iobb"`` or ``"iou"``.
        iou_type: ``"bbox"`` or ``"segm"`` (masks on both sides).
        thresholds: T least overlaps of a match.
        max_dets: highest-scoring detections to keep for each image and class.
        area: a name of :data:`AREAS` or (low, high) in pixels²; boxes outside it are ignored.

    Raises:
        ValueError: an unknown overlap, type or area, or absent masks.
    """
    check_overlap(overlap)
    if isinstance(area, str) and area not in AREAS:
        raise ValueError(f"area '{area}' is not one of {tuple(AREAS)}")
    low, high = AREAS[area] if isinstance(area, str) else area
    gt_ignored = ground_truth.crowd | (ground_truth.areas < low) | (ground_truth.areas > high)
    kept, rank = keep_best(detections, max_dets)
    masks = _masks_of(ground_truth, detections, kept) if iou_type == "segm" else None
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type '{iou_type}' is not 'bbox' or 'segm'")
    num_classes = ground_truth.num_classes
    det_group = detections.image[kept] * num_classes + detections.category[kept]
    gt_group = ground_truth.image * num_classes + ground_truth.category
    pair_det, pair_gt = same_group_pairs(det_group, gt_group)
    if masks is None:
        overlaps = paired_box_overlaps(
            detections.boxes[kept][pair_det], ground_truth.boxes[pair_gt], overlap, ground_truth.crowd[pair_gt]
        )
        det_areas = detections.boxes[kept, 2] * detections.boxes[kept, 3]
    else:
        overlaps = _paired_mask_overlaps(*masks, pair_det, pair_gt, overlap, ground_truth.crowd)
        det_areas = np.array([float(mask_utils.area(m)) for m in masks[0]])
    thresholds = np.asarray(thresholds, dtype=np.float64)
    matched = greedy(pair_det, pair_gt, overlaps, rank, thresholds, gt_ignored, ground_truth.crowd)
    outside = (det_areas < low) | (det_areas > high)
    ignored = np.where(matched >= 0, _take(gt_ignored, matched), outside[None, :])
    order = np.lexsort((-detections.scores[kept], detections.category[kept]))
    return Matches(
        thresholds=thresholds,
        class_names=ground_truth.class_names,
        num_images=ground_truth.num_images,
        scores=detections.scores[kept][order],
        image=detections.image[kept][order],
        category=detections.category[kept][order],
        source=kept[order],
        matched_box=matched[:, order],
        ignored=ignored[:, order],
        gt_image=ground_truth.image,
        gt_category=ground_truth.category,
        gt_ignored=gt_ignored,
    )


def same_group_pairs(det_group: np.ndarray, gt_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List all pairs of a detection and a box with the same group number, by detection, then by box: (P,) and (P,)."""
    order = np.argsort(gt_group, kind="stable")
    first = np.searchsorted(gt_group[order], det_group, side="left")
    count = np.searchsorted(gt_group[order], det_group, side="right") - first
    pair_det = np.repeat(np.arange(len(det_group)), count)
    offset = np.arange(len(pair_det)) - np.repeat(np.cumsum(count) - count, count)
    return pair_det, order[first[pair_det] + offset]


def greedy(
    pair_det: np.ndarray,
    pair_gt: np.ndarray,
    overlaps: np.ndarray,
    rank: np.ndarray,
    thresholds: np.ndarray,
    gt_ignored: np.ndarray,
    gt_crowd: np.ndarray,
) -> np.ndarray:
    """Assign detections to ground-truth boxes greedily, as COCO does.

    A detection takes the free box with the largest sufficient overlap; ignored boxes come last, and the last box in
    the file wins a tie. A crowd matches any number of detections.

    Args:
        pair_det, pair_gt, overlaps: (P,) candidate pairs.
        rank: (D,) position of a detection among its competitors; lower ranks choose first.
        thresholds: (T,).
        gt_ignored, gt_crowd: (G,) bool.

    Returns:
        (T, D) index of the box taken, or -1.
    """
    bounds = np.minimum(thresholds, 1 - 1e-10)  # COCO's guard against rounding at overlap 1
    matched = np.full((len(bounds), len(rank)), -1, dtype=np.int64)
    taken = np.zeros((len(bounds), len(gt_ignored)), dtype=bool)
    near = overlaps >= bounds.min(initial=np.inf)
    pair_det, pair_gt, overlaps = pair_det[near], pair_gt[near], overlaps[near]
    order = np.lexsort((-pair_gt, -overlaps, gt_ignored[pair_gt], pair_det, rank[pair_det]))
    pair_det, pair_gt, overlaps = pair_det[order], pair_gt[order], overlaps[order]
    edges = np.searchsorted(rank[pair_det], np.arange(rank.max(initial=-1) + 2))
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        if begin == end:
            continue
        det, gt = pair_det[begin:end], pair_gt[begin:end]
        free = (overlaps[begin:end] >= bounds[:, None]) & ~taken[:, gt]
        starts = np.flatnonzero(np.diff(det, prepend=-1))
        first = np.minimum.reduceat(np.where(free, np.arange(end - begin), end - begin), starts, axis=1)
        row, segment = np.nonzero(first < end - begin)
        chosen = gt[first[row, segment]]
        matched[row, det[starts[segment]]] = chosen
        taken[row, chosen] = ~gt_crowd[chosen]
    return matched


def keep_best(detections: Detections, max_dets: int) -> tuple[np.ndarray, np.ndarray]:
    """Select the best detections of each image and class: sorted indices, and their ranks by score from 0."""
    group = detections.image * (detections.category.max(initial=0) + 1) + detections.category
    order = np.lexsort((-detections.scores, group))
    new = np.diff(group[order], prepend=-1) != 0
    position = np.arange(len(order))
    rank = position - np.maximum.accumulate(np.where(new, position, 0))
    return order[rank < max_dets], rank[rank < max_dets]


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return ``values[index]``, False where the index is -1."""
    return np.append(values, False)[index]


def _masks_of(ground_truth: GroundTruth, detections: Detections, kept: np.ndarray) -> tuple[list[dict], list[dict]]:
    if (len(detections) and detections.segmentations is None) or (
        len(ground_truth.image) and ground_truth.segmentations is None
    ):
        raise ValueError("masks are scored only where every prediction and every annotation has a segmentation")
    gt_masks = [_run_length(*s) for s in ground_truth.segmentations or []]
    return [_run_length(*detections.segmentations[i]) for i in kept], gt_masks


def _run_length(segmentation, height: int, width: int) -> dict:
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation


def _paired_mask_overlaps(det_masks, gt_masks, pair_det, pair_gt, overlap, crowd) -> np.ndarray:
    """Compute (P,) overlaps of masks, with one call of pycocotools per detection."""
    overlaps = np.zeros(len(pair_det))
    edges = np.append(np.flatnonzero(np.diff(pair_det, prepend=-1)), len(pair_det))
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        boxes = pair_gt[begin:end]
        matrix = overlap_matrix([det_masks[pair_det[begin]]], [gt_masks[g] for g in boxes], overlap, crowd[boxes])
        overlaps[begin:end] = matrix[0]
    return overlaps


def mean_of_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Average the finite values over an axis; NaN where there is none."""
    defined = np.isfinite(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
