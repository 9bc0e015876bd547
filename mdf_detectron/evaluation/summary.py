"""Summarize the predictions of one model, or of two, as JSON-ready dicts for reports.

Undefined numbers are None. Metrics are times 100; sensitivities are in [0, 1]. An *estimate* is
``{"value", "low", "high"}`` with the ends of the 95 % patient-level bootstrap interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mdf_detectron.evaluation import froc, scoring
from mdf_detectron.evaluation.calibration import calibration_of
from mdf_detectron.evaluation.coco import Detections, GroundTruth, unusual
from mdf_detectron.evaluation.estimates import ByFold, Estimator, Verdict, concatenate_folds
from mdf_detectron.evaluation.matching import MAX_DETS, Matches, mean_of_defined
from mdf_detectron.evaluation.metrics import (
    COUNT_THRESHOLD,
    HEADLINE,
    Metric,
    average_precision,
    describe_metrics,
    metric_names,
    metric_support,
    metric_values,
    precision_recall_curve,
    subgroup_metrics,
)
from mdf_detectron.evaluation.statistics import NUM_RESAMPLES, Statistic, TrainingSpread
from mdf_detectron.evaluation.subgroups import list_subgroups
from mdf_detectron.fileio import finite_or_none

FILE_NAME = "evaluation.json"

ALL = "all"
OUTCOMES = ("tp", "fp", "fn")

SWEEP = tuple(np.linspace(0, 1, 21).round(4).tolist())
"""0 to 1 in steps of 0.05."""

MAX_CURVE_POINTS = 400


@dataclass(frozen=True)
class Protocol:
    """The scoring protocol.

    Attributes:
        score_threshold: lowest score of detections in counts and confusion (0.1 in the paper's figure 2b).
        max_dets: highest-scoring detections to keep for each image and class; FROC uses all.
        num_resamples, seed: of the bootstrap.
        froc_criterion: ``"iobb"``, ``"iou"`` (at 0.5) or ``"center"``.
        area: range of areas for metrics and counts, a name of :data:`~mdf_detectron.evaluation.matching.AREAS` or
            (low, high) in pixels²; FROC and confusion use all.
        sweep: overlap thresholds of the threshold sweep.
        tasks: of ``"bbox"`` and ``"segm"``; None: also masks if both sides have them.
    """

    score_threshold: float = 0.1
    max_dets: int = MAX_DETS
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0
    froc_criterion: str = "iobb"
    area: str | tuple[float, float] = "all"
    sweep: tuple[float, ...] = SWEEP
    tasks: tuple[str, ...] | None = None


class _Data:
    def __init__(self, ground_truth: GroundTruth, protocol: Protocol) -> None:
        self.truth, self.protocol = ground_truth, protocol
        self.images = concatenate_folds({0: ground_truth})
        self.estimator = Estimator(self.images, protocol.num_resamples, protocol.seed)

    def match(self, detections: Detections, table: str, thresholds: Sequence[float] | None = None) -> Matches:
        options = {"max_dets": self.protocol.max_dets, "area": self.protocol.area}
        return scoring.match_table(self.truth, detections, table, thresholds=thresholds, **options)


def summarize(ground_truth: GroundTruth, detections: Detections, protocol: Protocol = Protocol()) -> dict[str, Any]:  # noqa: B008
    """Compute all results of one model as a JSON-ready dict."""
    data = _Data(ground_truth, protocol)
    tables = scoring.task_settings(protocol.tasks or scoring.default_tasks(ground_truth, detections))
    matches = {table: data.match(detections, table) for table in tables}
    of_froc = froc.froc_detections(ground_truth, detections, criterion=protocol.froc_criterion)
    confusion = scoring.confusion_matrix(
        ground_truth, detections, score_threshold=protocol.score_threshold, max_dets=protocol.max_dets
    )
    return finite_or_none(
        {
            "dataset": _describe(data, detections),
            "protocol": asdict(protocol),
            "metric_list": describe_metrics(),
            "metrics": {table: _metrics(data, one) for table, one in matches.items()},
            "counts": {
                table: count_rows(
                    data.estimator, scoring.counts_per_image(one, protocol.score_threshold), one.class_names
                )
                for table, one in matches.items()
            },
            "confusion": {"labels": [*ground_truth.class_names, scoring.BACKGROUND], "matrix": confusion.tolist()},
            "precision_recall": {table: _precision_recall(one) for table, one in matches.items()},
            "froc": _froc(data, of_froc),
            "calibration": calibration_of(of_froc, ground_truth.class_names, protocol.froc_criterion),
            "sweep": {"thresholds": list(protocol.sweep)} | {t: _sweep(data, detections, t) for t in tables},
            "subgroups": _subgroups(data, matches[HEADLINE[0]]) if HEADLINE[0] in matches else [],
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
        ``{"verdict": word of the :class:`~mdf_detectron.evaluation.estimates.Verdict` on :data:`HEADLINE`,
        "differences": {table: {metric: {"first", "second", "value", "low", "high", "p_value", "least_p"}}}}``; the
        value is second minus first, "least_p" the smallest p value that this many resamples can give.
    """
    data = _Data(ground_truth, protocol)
    tasks = protocol.tasks or sorted(
        set(scoring.default_tasks(ground_truth, first)) & set(scoring.default_tasks(ground_truth, second))
    )
    differences = {}
    for table in scoring.task_settings(tasks):
        matches = [data.match(detections, table) for detections in (first, second)]
        samples = [data.estimator.sampled({0: [metric_statistic(one)]}) for one in matches]
        sizes = data.images.count_patients(metric_support(matches[0]))
        names = metric_names(ground_truth.class_names)
        differences[table] = data.estimator.differences(names, *samples, sizes)
    return {"verdict": Verdict.of(headline_row(differences)).word, "differences": differences}


def headline_row(differences: Mapping[str, Mapping[str, Any]]) -> Mapping[str, float | None]:
    """Return the row that decides the verdict of a comparison."""
    table, metric = HEADLINE
    return differences[table][metric]


def evaluate_models(
    ground_truth: GroundTruth,
    models: Mapping[str, Detections],
    protocol: Protocol = Protocol(),  # noqa: B008
    title: str = "Evaluation",
) -> dict[str, Any]:
    """Summarize one model, or two and their comparison, as the content of :data:`FILE_NAME`."""
    summaries = {name: summarize(ground_truth, found, protocol) for name, found in models.items()}
    evaluation = {"title": title, "models": summaries}
    if len(models) == 2:
        evaluation["comparison"] = compare(ground_truth, *models.values(), protocol)
    return evaluation


def metric_statistic(matches: Matches, metrics: Sequence[Metric] | None = None) -> Statistic:
    """Make the statistic (B, I) weights → (B, M) metrics of one table."""
    return lambda weights: metric_values(matches, weights, metrics)[1]


def count_rows(estimator: Estimator, per_image: np.ndarray, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sum counts over the images, for each class and :data:`ALL`, with patient-level intervals.

    Args:
        per_image: (3, K, I) TP, FP and FN, possibly means over trainings.

    Returns:
        name → ``{"tp", "fp", "fn", "interval": {"tp": [low, high], ...}}``.
    """
    per_image = np.concatenate([per_image, per_image.sum(axis=1, keepdims=True)], axis=1)
    flat = per_image.reshape(-1, per_image.shape[2]).T
    values, low, high = (column.reshape(len(OUTCOMES), -1) for column in estimator.totals(flat))
    return finite_or_none(
        {
            name: {
                **{outcome: _count(values[n, k]) for n, outcome in enumerate(OUTCOMES)},
                "interval": {outcome: [float(low[n, k]), float(high[n, k])] for n, outcome in enumerate(OUTCOMES)},
            }
            for k, name in enumerate([*class_names, ALL])
        }
    )


def _count(value: float) -> int | float:
    return int(value) if value == int(value) else round(float(value), 1)


def sweep_rows(
    estimator: Estimator, by_fold: ByFold, count: int, num_patients: int, training: TrainingSpread | None = None
) -> dict[str, dict[str, list[float | None]]]:
    """Estimate :func:`mean_ap_and_ar` at ``count`` thresholds: "AP" and "AR" → "value", "low", "high" → list."""
    places = [(metric, t) for metric in ("AP", "AR") for t in range(count)]
    rows = estimator.rows(places, by_fold, num_patients, training=training)
    return {
        metric: {key: [rows[metric, t][key] for t in range(count)] for key in ("value", "low", "high")}
        for metric in ("AP", "AR")
    }


def mean_ap_and_ar(matches: Matches) -> Statistic:
    """Make the statistic (B, I) weights → (B, 2 T): mean AP over classes at each threshold, then mean AR, times 100."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        ap, ar = average_precision(matches, weights)
        return 100 * np.concatenate([mean_of_defined(ap, -1), mean_of_defined(ar, -1)], axis=1)

    return statistic


def _describe(data: _Data, detections: Detections) -> dict[str, Any]:
    truth, patients = data.truth, data.images.patients
    with_boxes = data.images.boxes > 0
    boxes = np.bincount(truth.category[~truth.crowd], minlength=truth.num_classes)
    return {
        "images": truth.num_images,
        "healthy_images": int((~with_boxes).sum()),
        "patients": len(np.unique(patients)),
        "patients_with_boxes": len(np.unique(patients[with_boxes])),
        "images_without_patient_id": sum(image.get("patient_id") is None for image in truth.images),
        "detections": len(detections),
        "unusual": unusual(truth, detections),
        "boxes": dict(zip(truth.class_names, boxes.tolist(), strict=True)),
    }


def _metrics(data: _Data, matches: Matches) -> dict[str, Any]:
    sizes = data.images.count_patients(metric_support(matches))
    return data.estimator.rows(metric_names(matches.class_names), {0: [metric_statistic(matches)]}, sizes)


def _precision_recall(matches: Matches) -> dict[str, dict[str, list[float]]]:
    out = {}
    for k, name in enumerate(matches.class_names):
        recall, precision, _ = precision_recall_curve(matches, k, COUNT_THRESHOLD)
        chosen = _thin(len(recall))
        out[name] = {"recall": recall[chosen].tolist(), "precision": precision[chosen].tolist()}
    return out


def _froc(data: _Data, detections: froc.FrocDetections) -> dict[str, Any]:
    curves, names = {}, [*map(str, froc.FALSE_POSITIVE_RATES), "mean"]
    for class_name, k in [(ALL, None), *((name, k) for k, name in enumerate(data.truth.class_names))]:
        false_positives, sensitivity, _ = froc.froc_curve(detections, k)

        def statistic(weights: np.ndarray, k: int | None = k) -> np.ndarray:
            at_rates = froc.sensitivity_at(detections, class_index=k, weights=weights)
            return np.hstack([at_rates, at_rates.mean(axis=1, keepdims=True)])

        chosen = slice(None) if k is None else detections.gt_category == k
        num_patients = len(np.unique(data.images.patients[detections.gt_image[chosen]]))
        rows = data.estimator.rows(names, {0: [statistic]}, num_patients, highest=1.0)
        points = _thin(len(false_positives))
        curves[class_name] = {
            "false_positives": false_positives[points].tolist(),
            "sensitivity": sensitivity[points].tolist(),
            "mean": rows.pop("mean"),
            "at": rows,
        }
    return {"criterion": data.protocol.froc_criterion, "rates": list(froc.FALSE_POSITIVE_RATES), "curves": curves}


def _sweep(data: _Data, detections: Detections, table: str) -> dict[str, Any]:
    thresholds = list(data.protocol.sweep)
    statistic = mean_ap_and_ar(data.match(detections, table, thresholds))
    num_patients = len(np.unique(data.images.patients[data.images.boxes > 0]))
    return sweep_rows(data.estimator, {0: [statistic]}, len(thresholds), num_patients)


def _subgroups(data: _Data, matches: Matches) -> list[dict[str, Any]]:
    metrics = subgroup_metrics()
    if not metrics:
        return []
    names, by_fold = [metric.name for metric in metrics], {0: [metric_statistic(matches, metrics)]}
    support = metric_support(matches, metrics)
    return [
        {
            **{key: getattr(group, key) for key in ("column", "group", "images", "patients", "boxes", "warning")},
            "metrics": data.estimator.rows(
                names, by_fold, data.images.count_patients(support & group.members), members=group.members
            ),
        }
        for group in list_subgroups(data.images)
    ]


def _thin(length: int) -> np.ndarray:
    """Choose at most :data:`MAX_CURVE_POINTS` indices, including both ends."""
    return np.unique(np.linspace(0, length - 1, min(length, MAX_CURVE_POINTS)).round().astype(int))
