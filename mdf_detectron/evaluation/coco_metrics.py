"""The table of metrics that every tool of this project reports, from COCO annotations and COCO results.

``{"bbox_iobb": {...}, "bbox": {...}}`` and, where both sides have masks, ``"segm_iobb"`` and ``"segm"``: overlap by
IoBB and by IoU.  Each holds, times 100 as in Detectron2,

* ``AP``, ``AR``: mean over classes and over the overlap thresholds 0.50:0.95,
* ``AP50``, ``AP75``, ``AR50``: mean over classes at one threshold,
* ``AP-<class>``, ``AP50-<class>``, ``AR-<class>``, ``AR50-<class>``.

AR is the recall with at most ``max_dets`` detections of an image and class.  Undefined values are NaN, see
:mod:`~mdf_detectron.evaluation.average_precision`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.evaluation.average_precision import average_precision, mean_over_classes
from mdf_detectron.evaluation.ground_truth import GroundTruth
from mdf_detectron.evaluation.matching import COCO_THRESHOLDS, MAX_DETS, Matches, match
from mdf_detectron.evaluation.predictions import Detections

TASKS = ("bbox", "segm")


def task_settings(tasks: Iterable[str]) -> OrderedDict[str, tuple[str, str]]:
    """Name of each table → (iou_type, overlap): ``"bbox_iobb"`` before ``"bbox"``.

    Raises:
        ValueError: a task that is not one of :data:`TASKS`.
    """
    settings: OrderedDict[str, tuple[str, str]] = OrderedDict()
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"task '{task}' is not one of {TASKS}")
        settings[f"{task}_iobb"] = (task, "iobb")
        settings[task] = (task, "iou")
    return settings


def default_tasks(ground_truth: GroundTruth, detections: Detections) -> tuple[str, ...]:
    """``("bbox", "segm")`` where both sides have masks, else ``("bbox",)``."""
    both = ground_truth.segmentations is not None and detections.segmentations is not None
    return ("bbox", "segm") if both else ("bbox",)


def metric_values(matches: Matches, weights: np.ndarray | None = None) -> tuple[list[str], np.ndarray]:
    """Names and values of the metrics of one table.

    Args:
        matches: at :data:`~mdf_detectron.evaluation.matching.COCO_THRESHOLDS`.
        weights: (I,) or (B, I) weights of the images, see
            :func:`~mdf_detectron.evaluation.average_precision.average_precision`.

    Returns:
        M names; (M,) or (B, M) float64, times 100.
    """
    ap, ar = average_precision(matches, weights)
    at50, at75 = matches.threshold_index(0.5), matches.threshold_index(0.75)
    mean_ap, mean_ar = mean_over_classes(ap), mean_over_classes(ar)
    columns = {
        "AP": mean_ap.mean(axis=-1),
        "AP50": mean_ap[..., at50],
        "AP75": mean_ap[..., at75],
        "AR": mean_ar.mean(axis=-1),
        "AR50": mean_ar[..., at50],
    }
    for k, name in enumerate(matches.class_names):
        columns[f"AP-{name}"] = ap[..., k].mean(axis=-1)
        columns[f"AP50-{name}"] = ap[..., at50, k]
        columns[f"AR-{name}"] = ar[..., k].mean(axis=-1)
        columns[f"AR50-{name}"] = ar[..., at50, k]
    return list(columns), 100 * np.stack(list(columns.values()), axis=-1)


def metric_patients(matches: Matches, patients: np.ndarray) -> np.ndarray:
    """(M,) int64: patients with a region to be found, for each metric of :func:`metric_values`.

    Args:
        patients: (I,) number of each image's patient.
    """
    wanted = ~matches.gt_ignored
    owner, category = patients[matches.gt_image[wanted]], matches.gt_category[wanted]
    per_class = [len(np.unique(owner[category == k])) for k in range(len(matches.class_names))]
    return np.concatenate([np.full(5, len(np.unique(owner))), np.repeat(per_class, 4)]).astype(np.int64)


def evaluate_coco(
    annotations: str | Path | Mapping[str, Any] | GroundTruth | Any,
    predictions: str | Path | Sequence[Mapping[str, Any]] | Detections,
    *,
    tasks: Iterable[str] | None = None,
    max_dets: int = MAX_DETS,
    area: str | tuple[float, float] = "all",
    image_ids: Iterable[Any] | None = None,
) -> OrderedDict[str, dict[str, float]]:
    """Score predictions against annotations.

    Args:
        annotations: COCO JSON file, its content, or a ``COCO`` object.
        predictions: COCO results file or list; ``[]`` scores 0.
        tasks: of ``"bbox"`` and ``"segm"``; by default masks where both sides have them.
        max_dets: detections of one image and class that count.
        area: area range, see :func:`~mdf_detectron.evaluation.matching.match`.
        image_ids: score these images only.

    Returns:
        table → metric → value times 100, as in this module's text.

    Raises:
        AnnotationError, PredictionError: input that cannot be scored; the message names the entry.
    """
    ground_truth = GroundTruth.load(annotations)
    detections = Detections.load(predictions, ground_truth)
    weights = None if image_ids is None else ground_truth.image_weights(image_ids)
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for name, (iou_type, overlap) in task_settings(tasks or default_tasks(ground_truth, detections)).items():
        matches = match(
            ground_truth,
            detections,
            overlap=overlap,
            iou_type=iou_type,
            thresholds=COCO_THRESHOLDS,
            max_dets=max_dets,
            area=area,
        )
        names, values = metric_values(matches, weights)
        results[name] = dict(zip(names, values.tolist(), strict=True))
    return results
