"""Choose score thresholds on validation data, measure and correct the calibration of scores, and apply both elsewhere.

The functions on arrays are about one class (or all classes pooled): D detections with a score and a flag that says
whether it hit a ground-truth box, on I images with G ground-truth boxes in all. A threshold t keeps the detections with
score ≥ t; detections of equal score are kept or dropped together. Dictionaries are JSON-ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from mdf_detectron.evaluation.froc import FrocDetections
from mdf_detectron.fileio import finite_or_none

NUM_BINS = 10
LOWEST_SCORE = 1e-6
"""Scores are clipped to [this, 1 - this] before their logit is taken."""

TEMPERATURES = (0.05, 20.0)
"""Range of the temperatures that are tried."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it does on the data that it was chosen on.

    Attributes:
        threshold: detections from this score on are reported; infinity reports none.
        false_positives: an image.
        sensitivity: NaN without ground-truth boxes.
    """

    threshold: float
    false_positives: float
    sensitivity: float


def operating_points(scores: np.ndarray, hits: np.ndarray, num_boxes: int, num_images: int) -> list[OperatingPoint]:
    """List every point that a threshold can reach, by falling threshold; the first reports nothing.

    Raises:
        ValueError: no image, arrays of different lengths, or a score that is not finite.
    """
    scores, hits = _checked(scores, hits)
    if num_images < 1:
        raise ValueError("an operating point needs at least one image")
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # the last detection of each distinct score
    found, wrong = np.cumsum(hits)[ends], np.cumsum(~hits)[ends]
    none = OperatingPoint(float("inf"), 0.0, 0.0 if num_boxes else float("nan"))
    return [none] + [
        OperatingPoint(float(t), float(w / num_images), float(f / num_boxes) if num_boxes else float("nan"))
        for t, f, w in zip(scores[ends], found, wrong, strict=True)
    ]


def choose_threshold(
    scores: np.ndarray,
    hits: np.ndarray,
    num_boxes: int,
    num_images: int,
    *,
    false_positives: float | None = None,
    sensitivity: float | None = None,
) -> OperatingPoint | None:
    """Choose an operating point by one of two wishes; of equal points the one with the highest threshold.

    Args:
        false_positives: at most, an image: the most sensitive such point; or
        sensitivity: at least: the highest such threshold, None where no threshold reaches it.
    """
    points = operating_points(scores, hits, num_boxes, num_images)
    if false_positives is None:
        if not 0 < sensitivity <= 1:
            raise ValueError(f"a sensitivity must be above 0 and at most 1, got {sensitivity}")
        return next((p for p in points if p.sensitivity >= sensitivity - 1e-12), None)
    if not false_positives >= 0:
        raise ValueError(f"a rate of false positives must be at least 0, got {false_positives}")
    allowed = [p for p in points if p.false_positives <= false_positives + 1e-12]
    return max(allowed, key=lambda p: p.sensitivity) if num_boxes else allowed[0]


def reliability(scores: np.ndarray, hits: np.ndarray) -> dict[str, Any]:
    """Compare scores with the share of hits; bin b of B holds scores in [b/B, (b+1)/B), the last one also 1.

    Returns:
        "edges" (B + 1); "counts" of detections, "confidence" (mean score) and "accuracy" (share of hits), B each, None
        in an empty bin; "error": expected calibration error, the mean |accuracy - confidence| over detections.
    """
    scores, hits = _checked(scores, hits)
    if len(scores) and not (0 <= scores.min() and scores.max() <= 1):
        raise ValueError("a reliability diagram needs scores in [0, 1]")
    index = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    counts = np.bincount(index, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, weights=scores, minlength=NUM_BINS) / counts
        accuracy = np.bincount(index, weights=hits, minlength=NUM_BINS) / counts
    gaps = np.abs(np.nan_to_num(accuracy - confidence))
    error = float((gaps * counts).sum() / len(scores)) if len(scores) else float("nan")
    lists = {"edges": np.linspace(0, 1, NUM_BINS + 1), "counts": counts, "confidence": confidence, "accuracy": accuracy}
    return finite_or_none({**{key: values.tolist() for key, values in lists.items()}, "error": error})


def calibrated(scores: np.ndarray | float, temperature: float) -> np.ndarray:
    """Scale scores in [0, 1] by a temperature: sigmoid(logit(score) / temperature); 1 changes nothing."""
    clipped = np.clip(np.asarray(scores, dtype=np.float64), LOWEST_SCORE, 1 - LOWEST_SCORE)
    return 1 / (1 + np.exp(-(np.log(clipped) - np.log1p(-clipped)) / temperature))


def log_loss(scores: np.ndarray, hits: np.ndarray) -> float:
    """Compute the mean negative log-likelihood of the hits under the scores."""
    clipped = np.clip(scores, LOWEST_SCORE, 1 - LOWEST_SCORE)
    return float(-np.mean(np.where(hits, np.log(clipped), np.log1p(-clipped))))


def fit_temperature(scores: np.ndarray, hits: np.ndarray) -> float | None:
    """Find the temperature of the least log loss (Guo et al. 2017), within :data:`TEMPERATURES`.

    Returns:
        None where there are not both hits and misses: any temperature is then as good as its limit.
    """
    scores, hits = _checked(scores, hits)
    if not (hits.any() and (~hits).any()):
        return None
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda t: log_loss(calibrated(scores, np.exp(t)), hits), bounds=(low, high), method="bounded",
        options={"xatol": 1e-5},
    )  # fmt: skip
    return float(np.exp(found.x))


def _checked(scores: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, hits = np.asarray(scores, dtype=np.float64), np.asarray(hits, dtype=bool)
    if scores.ndim != 1 or scores.shape != hits.shape:
        raise ValueError(f"scores and hits must be lists of one length, got {scores.shape} and {hits.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return scores, hits


POOLED = "all"
"""Name of the entry of all classes together."""


def calibration_of(found: FrocDetections, class_names: Sequence[str], criterion: str) -> dict[str, Any]:
    """Measure the calibration of each class's scores, and of all together.

    Args:
        criterion: that ``found`` was made by.

    Returns:
        ``{"criterion", "classes": {name: reliability diagram}}``; the last name is :data:`POOLED`. Empty where a score
        is no probability (outside of [0, 1]).
    """
    if len(found.scores) and not (0 <= found.scores.min() and found.scores.max() <= 1):
        return {}
    classes = {name: found.category == k for k, name in enumerate(class_names)}
    chosen = {**classes, POOLED: slice(None)}
    diagrams = {name: reliability(found.scores[c], found.true_positive[c]) for name, c in chosen.items()}
    return {"criterion": criterion, "classes": diagrams}


def stored_choices(
    found: FrocDetections,
    class_names: Sequence[str],
    operating_point: Mapping[str, Any] | None,
    calibration: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Apply the thresholds and the temperature that a checkpoint holds to these data.

    Args:
        found: by the criterion that they were chosen with.
        operating_point, calibration: of the checkpoint, see :mod:`~mdf_detectron.model_zoo.publishing`.

    Returns:
        ``{"operating_point": {"source", "classes": {name: {"threshold", "boxes", "chosen", "here"}}}, "calibration":
        {"source", "temperature", "error", "error_after"}}``, each None where the checkpoint holds none; "chosen" and
        "here" are ``{"false_positives", "sensitivity"}``, an image and of the ground-truth boxes.
    """
    out: dict[str, Any] = {"operating_point": None, "calibration": None}
    if operating_point is not None:
        points = operating_point["classes"]
        classes = {name: _at(found, k, points[name]) for k, name in enumerate(class_names)}
        out["operating_point"] = {"source": operating_point["source"], "classes": classes}
    if calibration is not None:
        scores = (found.scores, calibrated(found.scores, calibration["temperature"]))
        errors = [reliability(one, found.true_positive)["error"] for one in scores]
        kept = {key: calibration[key] for key in ("source", "temperature")}
        out["calibration"] = {**kept, "error": errors[0], "error_after": errors[1]}
    return finite_or_none(out)


def _at(found: FrocDetections, class_index: int, point: Mapping[str, Any]) -> dict[str, Any]:
    """Count what a class's stored threshold does here."""
    threshold, boxes = point["threshold"], int((found.gt_category == class_index).sum())
    kept = found.category == class_index
    kept = kept & (found.scores >= threshold) if threshold is not None else kept & False
    hits = int((kept & found.true_positive).sum())
    return {
        "threshold": threshold,
        "boxes": boxes,
        "chosen": {key: point[key] for key in ("false_positives", "sensitivity")},
        "here": {
            "false_positives": float((kept & ~found.true_positive).sum() / found.num_images),
            "sensitivity": hits / boxes if boxes else None,
        },
    }
