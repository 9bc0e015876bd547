"""Score COCO predictions against COCO annotations: load, match once per table, compute the metrics.

A *table* is a task scored by one overlap: ``"bbox_iobb"``, ``"bbox"`` (by IoU), ``"segm_iobb"`` and ``"segm"``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import MAX_DETS, Matches, match
from mdf_detectron.evaluation.metrics import metric_values, overlap_thresholds

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
    image_ids: Iterable[Any] | None = None,
) -> OrderedDict[str, dict[str, float]]:
    """Score predictions against annotations.

    Args:
        annotations: COCO JSON file, its content, or a ``COCO`` object.
        predictions: COCO results file or list; ``[]`` scores 0.
        tasks: of ``"bbox"`` and ``"segm"``; by default also masks if both sides have them.
        max_dets: highest-scoring detections to keep for each image and class.
        image_ids: images to score; by default all.

    Returns:
        table → metric → value times 100, see :mod:`~mdf_detectron.evaluation.metrics`; NaN where undefined.

    Raises:
        DatasetError, ResultsError: invalid input; the message names the entry.
    """
    ground_truth = GroundTruth.load(annotations)
    detections = Detections.load(predictions, ground_truth)
    weights = None if image_ids is None else ground_truth.image_weights(image_ids)
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for table in task_settings(tasks or default_tasks(ground_truth, detections)):
        names, values = metric_values(match_table(ground_truth, detections, table, max_dets=max_dets), weights)
        results[table] = dict(zip(names, values.tolist(), strict=True))
    return results
