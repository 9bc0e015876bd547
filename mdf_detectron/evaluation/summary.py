"""Everything that a report says of one model's predictions, or of two models', as JSON-ready dicts.

Numbers that are not defined are None. Metrics are times 100; counts are counts; sensitivities are in [0, 1].
An *estimate* is ``{"value", "low", "high"}`` with the ends of the 95 % patient-level bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.errors import ResultsError
from mdf_detectron.evaluation.average_precision import average_precision, mean_over_classes, precision_recall_curve
from mdf_detectron.evaluation.calibration import calibration_of
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.counts import BACKGROUND, confusion_matrix, counts_per_image
from mdf_detectron.evaluation.froc import (
    FALSE_POSITIVE_RATES,
    FrocDetections,
    froc_curve,
    froc_detections,
    sensitivity_at,
)
from mdf_detectron.evaluation.matching import MAX_DETS, Matches, match
from mdf_detectron.evaluation.metrics import (
    HEADLINE,
    describe_metrics,
    metric_names,
    metric_patients,
    metric_support,
    metric_values,
    overlap_thresholds,
    subgroup_metrics,
)
from mdf_detectron.evaluation.scoring import default_tasks, task_settings
from mdf_detectron.evaluation.statistics import (
    NUM_RESAMPLES,
    Statistic,
    bootstrap,
    count_patients,
    interval,
    metric_intervals,
    paired_test,
    patients_of,
)
from mdf_detectron.evaluation.subgroups import subgroup_results
from mdf_detectron.fileio import finite_or_none, read_json

FORMAT_VERSION = 2
"""Of evaluation.json; raised when its keys change."""

FILE_NAME = "evaluation.json"

ALL = "all"
COUNT_THRESHOLD = 0.5
"""Overlap of a true positive in counts and precision-recall curves."""

SWEEP = tuple(np.linspace(0, 1, 21).round(4).tolist())
"""0 to 1 in steps of 0.05."""

MAX_CURVE_POINTS = 400


@dataclass(frozen=True)
class Protocol:
    """How predictions are scored.

    Attributes:
        score_threshold: counts and confusion use detections from this score on (0.1 in the paper's figure 2b).
        max_dets: detections of one image and class that count, except in FROC, which takes all.
        num_resamples: bootstrap resamples.
        seed: of the bootstrap.
        froc_criterion: ``"iobb"``, ``"iou"`` (at 0.5) or ``"center"``.
        area: range of ground-truth areas that metrics and counts are about, a name of
            :data:`~mdf_detectron.evaluation.matching.AREAS` or (low, high) in pixels²; FROC and confusion take all.
        sweep: overlap thresholds of the threshold sweep.
        tasks: of ``"bbox"`` and ``"segm"``; None: masks where both sides have them.
    """

    score_threshold: float = 0.1
    max_dets: int = MAX_DETS
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0
    froc_criterion: str = "iobb"
    area: str | tuple[float, float] = "all"
    sweep: tuple[float, ...] = SWEEP
    tasks: tuple[str, ...] | None = None


def summarize(ground_truth: GroundTruth, detections: Detections, protocol: Protocol = Protocol()) -> dict[str, Any]:  # noqa: B008
    """Compute all results of one model, by name; each is JSON-ready."""
    patients = patients_of(ground_truth)
    settings = task_settings(protocol.tasks or default_tasks(ground_truth, detections))
    matches = {name: _match(ground_truth, detections, name, protocol) for name in settings}
    of_froc = froc_detections(ground_truth, detections, criterion=protocol.froc_criterion)
    return finite_or_none(
        {
            "dataset": _describe(ground_truth, detections, patients),
            "protocol": asdict(protocol),
            "metric_list": describe_metrics(),
            "metrics": {name: _metrics(m, patients, protocol) for name, m in matches.items()},
            "counts": {name: _counts(m, patients, protocol) for name, m in matches.items()},
            "confusion": {
                "labels": [*ground_truth.class_names, BACKGROUND],
                "matrix": confusion_matrix(
                    ground_truth, detections, score_threshold=protocol.score_threshold, max_dets=protocol.max_dets
                ).tolist(),
            },
            "precision_recall": {name: _precision_recall(m) for name, m in matches.items()},
            "froc": _froc(of_froc, ground_truth.class_names, patients, protocol),
            "calibration": calibration_of(of_froc, ground_truth.class_names, protocol.froc_criterion),
            "sweep": _sweep(ground_truth, detections, patients, settings, protocol),
            "subgroups": _subgroups(ground_truth, matches, patients, protocol),
        }
    )


def compare(
    ground_truth: GroundTruth,
    first: Detections,
    second: Detections,
    protocol: Protocol = Protocol(),  # noqa: B008
) -> dict[str, Any]:
    """Test whether the second model is better than the first on the same images.

    Returns:
        ``{"verdict": "helps" | "harms" | "no difference shown", "differences": {table: {metric: {"first", "second",
        "value", "low", "high", "p_value", "least_p"}}}}``; the value is second minus first, the verdict is on
        :data:`HEADLINE`, and no p can be smaller than the least one with so many resamples.
    """
    patients = patients_of(ground_truth)
    tasks = protocol.tasks or sorted(set(default_tasks(ground_truth, first)) & set(default_tasks(ground_truth, second)))
    differences: dict[str, dict[str, dict[str, float]]] = {}
    for name in task_settings(tasks):
        a, b = (_match(ground_truth, d, name, protocol) for d in (first, second))
        sizes = metric_patients(a, patients)
        test = paired_test(_statistic(a), _statistic(b), patients, sizes, protocol.num_resamples, protocol.seed)
        names, of_first = metric_values(a)
        of_second = metric_values(b)[1]
        columns = (of_first, of_second, test.difference, test.low, test.high, test.p_value, test.least_p)
        keys = ("first", "second", "value", "low", "high", "p_value", "least_p")
        differences[name] = {
            metric: dict(zip(keys, map(float, row), strict=True))
            for metric, row in zip(names, np.stack(columns, axis=1), strict=True)
        }
    verdict = _verdict(differences[HEADLINE[0]][HEADLINE[1]])
    return finite_or_none({"verdict": verdict, "differences": differences})


def evaluate_models(
    ground_truth: GroundTruth,
    models: Mapping[str, Detections],
    protocol: Protocol = Protocol(),  # noqa: B008
    title: str = "Evaluation",
) -> dict[str, Any]:
    """Summarize one model, or two and their comparison: the content of :data:`FILE_NAME`.

    Args:
        models: name → detections, of one or two models.
    """
    summaries = {name: summarize(ground_truth, found, protocol) for name, found in models.items()}
    evaluation = {"format_version": FORMAT_VERSION, "title": title, "models": summaries}
    if len(models) == 2:
        evaluation["comparison"] = compare(ground_truth, *models.values(), protocol)
    return evaluation


def read_evaluation(folder: str | Path) -> dict[str, Any]:
    """Read the :data:`FILE_NAME` of a folder that tools/evaluate.py wrote.

    Raises:
        ResultsError: an absent file, one that is none, or one of another version; the message says how to make it.
    """
    path = Path(folder) / FILE_NAME
    evaluation = read_json(path, ResultsError)
    if not isinstance(evaluation, dict) or not {"title", "models"} <= evaluation.keys():
        raise ResultsError(f"{path}: not written by tools/evaluate.py")
    version = evaluation.get("format_version", 1)
    if version != FORMAT_VERSION:
        raise ResultsError(
            f"{path}: has format {version}, this version reads {FORMAT_VERSION}; make it anew: tools/evaluate.py "
            f"--annotations FILE --predictions FILE --out {folder}"
        )
    return evaluation


def _verdict(difference: dict[str, float]) -> str:
    if difference["low"] > 0:
        return "helps"
    return "harms" if difference["high"] < 0 else "no difference shown"


def _match(ground_truth: GroundTruth, detections: Detections, table: str, protocol: Protocol, **options) -> Matches:
    iou_type, overlap = task_settings([table.split("_")[0]])[table]
    thresholds = overlap_thresholds()
    if not np.isclose(thresholds, COUNT_THRESHOLD).any():
        thresholds = np.sort(np.append(thresholds, COUNT_THRESHOLD))
    options = {"max_dets": protocol.max_dets, "area": protocol.area, "thresholds": thresholds, **options}
    return match(ground_truth, detections, overlap=overlap, iou_type=iou_type, **options)


def _statistic(matches: Matches) -> Statistic:
    return lambda weights: metric_values(matches, weights)[1]


def _describe(ground_truth: GroundTruth, detections: Detections, patients: np.ndarray) -> dict[str, Any]:
    boxes = ~ground_truth.crowd
    return {
        "images": ground_truth.num_images,
        "healthy_images": ground_truth.num_images - len(np.unique(ground_truth.image[boxes])),
        "patients": len(np.unique(patients)),
        "patients_with_boxes": len(np.unique(patients[ground_truth.image[boxes]])),
        "images_without_patient_id": sum(image.get("patient_id") is None for image in ground_truth.images),
        "detections": len(detections),
        "boxes": {
            name: int((boxes & (ground_truth.category == k)).sum()) for k, name in enumerate(ground_truth.class_names)
        },
    }


def _estimates(names: Iterable[str], values, low, high) -> dict[str, dict[str, float]]:
    return {
        name: {"value": float(v), "low": float(lo), "high": float(hi)}
        for name, v, lo, hi in zip(names, values, low, high, strict=True)
    }


def _intervals(statistic: Statistic, patients: np.ndarray, sizes, protocol: Protocol, highest: float = 100.0):
    return metric_intervals(statistic, patients, sizes, protocol.num_resamples, protocol.seed, bounds=(0.0, highest))


def _metrics(matches: Matches, patients: np.ndarray, protocol: Protocol) -> dict[str, dict[str, float]]:
    sizes = metric_patients(matches, patients)
    names = metric_names(matches.class_names)
    return _estimates(names, *_intervals(_statistic(matches), patients, sizes, protocol))


def _counts(matches: Matches, patients: np.ndarray, protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Count TP, FP and FN; under ``"interval"`` are the ends of each count's bootstrap interval."""
    outcomes = ("tp", "fp", "fn")
    per_image = counts_per_image(matches, protocol.score_threshold, COUNT_THRESHOLD)  # (3, K, I)
    per_image = np.concatenate([per_image, per_image.sum(axis=1, keepdims=True)], axis=1)
    flat = per_image.reshape(-1, matches.num_images).T
    samples = bootstrap(lambda w: w @ flat, patients, protocol.num_resamples, protocol.seed)
    low, high = interval(samples, flat.sum(axis=0), count_patients(patients))
    low, high = low.reshape(3, -1), high.reshape(3, -1)
    return {
        name: {
            **{o: int(per_image[n, k].sum()) for n, o in enumerate(outcomes)},
            "interval": {o: [float(low[n, k]), float(high[n, k])] for n, o in enumerate(outcomes)},
        }
        for k, name in enumerate([*matches.class_names, ALL])
    }


def _precision_recall(matches: Matches) -> dict[str, dict[str, list[float]]]:
    out = {}
    for k, name in enumerate(matches.class_names):
        recall, precision, _ = precision_recall_curve(matches, k, COUNT_THRESHOLD)
        chosen = _thin(len(recall))
        out[name] = {"recall": recall[chosen].tolist(), "precision": precision[chosen].tolist()}
    return out


def _froc(
    detections: FrocDetections, class_names: tuple[str, ...], patients: np.ndarray, protocol: Protocol
) -> dict[str, Any]:
    curves = {}
    for name, k in [(ALL, None), *((name, k) for k, name in enumerate(class_names))]:
        false_positives, sensitivity, _ = froc_curve(detections, k)

        def statistic(weights: np.ndarray, k: int | None = k) -> np.ndarray:
            at_rates = sensitivity_at(detections, class_index=k, weights=weights)
            return np.hstack([at_rates, at_rates.mean(axis=1, keepdims=True)])

        chosen = slice(None) if k is None else detections.gt_category == k
        num_patients = len(np.unique(patients[detections.gt_image[chosen]]))
        names = [*map(str, FALSE_POSITIVE_RATES), "mean"]
        estimates = _estimates(names, *_intervals(statistic, patients, num_patients, protocol, highest=1.0))
        chosen = _thin(len(false_positives))
        curves[name] = {
            "false_positives": false_positives[chosen].tolist(),
            "sensitivity": sensitivity[chosen].tolist(),
            "at": {rate: estimates[rate] for rate in map(str, FALSE_POSITIVE_RATES)},
            "mean": estimates["mean"],
        }
    return {"criterion": protocol.froc_criterion, "rates": list(FALSE_POSITIVE_RATES), "curves": curves}


def _sweep(ground_truth, detections, patients, settings, protocol: Protocol) -> dict[str, Any]:
    out: dict[str, Any] = {"thresholds": list(protocol.sweep)}
    num_patients = len(np.unique(patients[ground_truth.image[~ground_truth.crowd]]))
    for name in settings:
        statistic = mean_ap_and_ar(_match(ground_truth, detections, name, protocol, thresholds=list(protocol.sweep)))
        values, low, high = (v.reshape(2, -1) for v in _intervals(statistic, patients, num_patients, protocol))
        out[name] = {
            metric: {"value": values[m].tolist(), "low": low[m].tolist(), "high": high[m].tolist()}
            for m, metric in enumerate(("AP", "AR"))
        }
    return out


def mean_ap_and_ar(matches: Matches) -> Statistic:
    """Make the statistic (B, I) weights → (B, 2 T): mean AP, then mean AR over classes at each threshold, times 100."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        ap, ar = average_precision(matches, weights)
        return 100 * np.concatenate([mean_over_classes(ap), mean_over_classes(ar)], axis=1)

    return statistic


def _subgroups(ground_truth, matches: dict[str, Matches], patients, protocol: Protocol) -> list[dict[str, Any]]:
    """Analyze subgroups by the headline's table; nothing where the protocol leaves that table out."""
    metrics = subgroup_metrics()
    if HEADLINE[0] not in matches or not metrics:
        return []
    own = matches[HEADLINE[0]]
    found = subgroup_results(
        ground_truth,
        lambda weights: metric_values(own, weights, metrics)[1],
        patients,
        num_resamples=protocol.num_resamples,
        seed=protocol.seed,
        support=metric_support(own, metrics),
    )
    names = [metric.name for metric in metrics]
    return [
        {
            **{key: getattr(r, key) for key in ("column", "group", "images", "patients", "boxes", "warning")},
            "metrics": _estimates(names, r.values, r.low, r.high),
        }
        for r in found
    ]


def _thin(length: int) -> np.ndarray:
    """Choose at most :data:`MAX_CURVE_POINTS` of the points, both ends among them."""
    return np.unique(np.linspace(0, length - 1, min(length, MAX_CURVE_POINTS)).round().astype(int))
