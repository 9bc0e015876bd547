"""Score COCO predictions against COCO annotations: load, match once per table, compute metrics and counts.

A *table* is a task scored by one overlap: ``"bbox_iobb"``, ``"bbox"`` (by IoU), ``"segm_iobb"`` and ``"segm"``.

Shapes: K classes, D detections, G ground-truth boxes, I images.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import MAX_DETS, Matches, greedy, match, paired_box_overlaps, same_group_pairs
from mdf_detectron.evaluation.metrics import COUNT_THRESHOLD, metric_values, overlap_thresholds

TASKS = ("bbox", "segm")


def task_settings(tasks: Iterable[str]) -> OrderedDict[str, tuple[str, str]]:
    """Map each table of the tasks to (iou_type, overlap); raise ``ValueError`` for an unknown task."""
    settings: OrderedDict[str, tuple[str, str]] = OrderedDict()
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"task '{task}' is not one of {TASKS}")
        settings[f"{task}_iobb"] = (task, "iobb")
        settings[task] = (task, "iou")
    return settings


def default_tasks(ground_truth: GroundTruth, detections: Detections) -> tuple[str, ...]:
    """Return ``("bbox", "segm")`` if both sides have masks, else ``("bbox",)``."""
    both = ground_truth.segmentations is not None and detections.segmentations is not None
    return ("bbox", "segm") if both else ("bbox",)


def match_table(
    ground_truth: GroundTruth,
    detections: Detections,
    table: str,
    *,
    thresholds: np.ndarray | Sequence[float] | None = None,
    max_dets: int = MAX_DETS,
    area: str | tuple[float, float] = "all",
) -> Matches:
    """Match detections for one table, by default at the thresholds of all metrics."""
    iou_type, overlap = task_settings([table.split("_")[0]])[table]
    wanted = overlap_thresholds() if thresholds is None else thresholds
    options = {"thresholds": wanted, "max_dets": max_dets, "area": area}
    return match(ground_truth, detections, overlap=overlap, iou_type=iou_type, **options)


def evaluate_coco(
    annotations: str | Path | Mapping[str, Any] | GroundTruth | Any,
    predictions: str | Path | Sequence[Mapping[str, Any]] | Detections,
    *,
    tasks: Iterable[str] | None = None,
    max_dets: int = MAX_DETS,
) -> OrderedDict[str, dict[str, float]]:
    """Score predictions against annotations.

    Args:
        annotations: COCO JSON file, its content, or a ``COCO`` object.
        predictions: COCO results file or list; ``[]`` scores 0.
        tasks: of ``"bbox"`` and ``"segm"``; by default also masks if both sides have them.
        max_dets: highest-scoring detections to keep for each image and class.

    Returns:
        table → metric → value times 100, see :mod:`~mdf_detectron.evaluation.metrics`; NaN where undefined.

    Raises:
        DatasetError, ResultsError: invalid input; the message names the entry.
    """
    ground_truth = GroundTruth.load(annotations)
    detections = Detections.load(predictions, ground_truth)
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for table in task_settings(tasks or default_tasks(ground_truth, detections)):
        names, values = metric_values(match_table(ground_truth, detections, table, max_dets=max_dets))
        results[table] = dict(zip(names, values.tolist(), strict=True))
    return results


BACKGROUND = "background"


def counts_per_image(matches: Matches, score_threshold: float) -> np.ndarray:
    """Count TP, FP and FN of detections with score ≥ threshold, at :data:`COUNT_THRESHOLD` (the paper's figure 2b).

    Returns:
        (3, K, I) int64. TP + FN is the number of ground-truth boxes; detections on crowds count as neither.
    """
    row = matches.threshold_index(COUNT_THRESHOLD)
    scored = matches.scores >= score_threshold
    tp = matches.true_positive[row] & scored
    fp = matches.false_positive[row] & scored
    boxes = ~matches.gt_ignored
    counts = np.zeros((3, len(matches.class_names), matches.num_images), dtype=np.int64)
    np.add.at(counts[0], (matches.category[tp], matches.image[tp]), 1)
    np.add.at(counts[1], (matches.category[fp], matches.image[fp]), 1)
    np.add.at(counts[2], (matches.gt_category[boxes], matches.gt_image[boxes]), 1)
    counts[2] -= counts[0]
    return counts


def confusion_matrix(
    ground_truth: GroundTruth, detections: Detections, *, score_threshold: float, max_dets: int = MAX_DETS
) -> np.ndarray:
    """Compute the confusion matrix of detections and ground-truth boxes, by IoBB.

    Findings often overlap on a chest radiograph, so pairs of the same class are matched first (the diagonal is TP of
    :func:`counts_per_image`); the remaining detections and boxes are matched across classes, by falling score. Those
    without a match are paired with the background.

    Returns:
        (K + 1, K + 1) int64: rows are the truth, columns the predictions, the last of each is the background. Each
        ground-truth box and each detection with score ≥ ``score_threshold`` counts once; the last entry is 0. Crowds
        and detections on them are left out.
    """
    matches = match(ground_truth, detections, thresholds=[COUNT_THRESHOLD], max_dets=max_dets)
    background = ground_truth.num_classes
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    scored = matches.scores >= score_threshold
    tp = matches.true_positive[0] & scored
    np.add.at(matrix, (matches.category[tp], matches.category[tp]), 1)

    left_det = matches.source[scored & matches.false_positive[0]]
    left_gt = ~matches.gt_ignored
    left_gt[matches.matched_box[0][tp]] = False
    left_gt = np.flatnonzero(left_gt)
    taken = _match_across_classes(ground_truth, detections, left_det, left_gt)
    truth = np.append(ground_truth.category[left_gt], background)[taken]
    np.add.at(matrix, (truth, detections.category[left_det]), 1)
    alone = np.setdiff1d(np.arange(len(left_gt)), taken)
    np.add.at(matrix, (ground_truth.category[left_gt[alone]], background), 1)
    return matrix


def _match_across_classes(ground_truth, detections, left_det, left_gt) -> np.ndarray:
    """Match the remaining detections with the remaining boxes: position in ``left_gt``, or -1, for each detection."""
    order = np.lexsort((-detections.scores[left_det], detections.image[left_det]))
    image = detections.image[left_det][order]
    rank = np.arange(len(order)) - np.searchsorted(image, image, side="left")
    pair_det, pair_gt = same_group_pairs(image, ground_truth.image[left_gt])
    overlaps = paired_box_overlaps(detections.boxes[left_det][order][pair_det], ground_truth.boxes[left_gt][pair_gt])
    no_crowd = np.zeros(len(left_gt), dtype=bool)
    matched = greedy(pair_det, pair_gt, overlaps, rank, np.array([COUNT_THRESHOLD]), no_crowd, no_crowd)
    taken = np.empty(len(order), dtype=np.int64)
    taken[order] = matched[0]
    return taken
