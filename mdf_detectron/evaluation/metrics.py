"""Average precision and recall from matches, by COCO's 101-point rule, for any weighting of the images.

Shapes: B weightings of the images (1 for the plain metric; one for each resample in a bootstrap), I images,
T overlap thresholds, K classes.

Defined where COCO leaves a hole:

* a class without ground truth to be found: NaN for the class, left out of the mean over classes;
* no class with ground truth at all: NaN everywhere;
* a class with ground truth and no predictions, or no predictions at all: AP = AR = 0;
* an image without ground truth (a healthy film): its detections are false positives, no detections cost nothing;
* an image without either: no effect.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import COCO_THRESHOLDS, MAX_DETS, Matches, match

RECALL_POINTS = np.linspace(0.0, 1.0, 101)


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """AP and AR of each class at each threshold.

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
    right = matches.right
    for k in range(shape[2]):
        positives = _positives(matches, k, weights)
        begin, end = np.searchsorted(matches.category, [k, k + 1])
        class_weights = weights[:, matches.image[begin:end]]
        ap[:, :, k], ar[:, :, k] = _class_metrics(
            right[:, begin:end], matches.ignored[:, begin:end], class_weights, positives
        )
    return (ap[0], ar[0]) if single else (ap, ar)


def precision_recall_curve(matches: Matches, class_index: int, threshold: float) -> tuple[np.ndarray, ...]:
    """The raw curve of one class, for drawing.

    Returns:
        recall, precision, score: (n,) after each of the class's n detections that count, highest score first;
        recall is NaN for a class without ground truth.
    """
    row = matches.threshold_index(threshold)
    counted = (matches.category == class_index) & ~matches.ignored[row]
    right = np.cumsum(matches.right[row, counted])
    positives = int(((matches.gt_category == class_index) & ~matches.gt_ignored).sum())
    recall = right / positives if positives else np.full(len(right), np.nan)
    return recall, right / np.arange(1, len(right) + 1), matches.scores[counted]


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the classes that are defined; NaN where none is."""
    defined = np.isfinite(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _positives(matches: Matches, class_index: int, weights: np.ndarray) -> np.ndarray:
    """(B,) weight of the class's regions that are to be found."""
    wanted = (matches.gt_category == class_index) & ~matches.gt_ignored
    return weights[:, matches.gt_image[wanted]].sum(axis=1)


def _class_metrics(right, ignored, weights, positives) -> tuple[np.ndarray, np.ndarray]:
    """AP and AR of one class, (B, T) each, from (T, n) outcomes of its n detections and their (B, n) weights.

    Precision has its local maxima at true positives only, so the curve is worked out just there.
    """
    num_thresholds = len(right)
    ap, ar = np.full((len(weights), num_thresholds), np.nan), np.full((len(weights), num_thresholds), np.nan)
    defined = positives > 0
    scale = np.where(defined, positives, 1.0)[:, None]
    all_counted = np.cumsum(weights, axis=1)
    for t in range(num_thresholds):
        counted = np.cumsum(weights * ~ignored[t], axis=1) if ignored[t].any() else all_counted
        at = np.flatnonzero(right[t])
        hits = np.cumsum(weights[:, at], axis=1)
        precision = hits / np.maximum(counted[:, at], np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALL_POINTS, hits / scale, side="right")
        ap[:, t] = (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALL_POINTS)
        ar[:, t] = hits[:, -1] / scale[:, 0] if len(at) else 0.0
    ap[~defined], ar[~defined] = np.nan, np.nan
    return ap, ar


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
            :func:`~mdf_detectron.evaluation.metrics.average_precision`.

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
        DatasetError, ResultsError: input that cannot be scored; the message names the entry.
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
