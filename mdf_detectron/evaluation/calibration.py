"""Choose score thresholds on validation data, measure and correct score calibration, and apply both to other data.

Functions on arrays cover one class, or all classes pooled: (D,) scores, and (D,) flags of the detections that hit a
ground-truth box. A threshold t keeps the detections with score ≥ t. Dictionaries are JSON-ready.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdf_detectron.evaluation.froc import FrocDetections
from mdf_detectron.fileio import finite_or_none

NUM_BINS = 10
LOWEST_SCORE = 1e-6
"""Scores are clipped to [this, 1 - this] before their logit is taken."""

TEMPERATURES = (0.05, 20.0)  # search range


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold and its results on the data on which it was chosen.

    Attributes:
        threshold: lowest score that is reported; infinity reports none.
        false_positives: per image.
        sensitivity: in [0, 1]; NaN without ground-truth boxes.
    """

    threshold: float
    false_positives: float
    sensitivity: float


def operating_points(scores: np.ndarray, hits: np.ndarray, num_boxes: int, num_images: int) -> list[OperatingPoint]:
    """List all operating points by falling threshold; the first reports nothing.

    ``ValueError``: no image, arrays of different lengths, or a non-finite score.
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
    """Choose an operating point by one of two limits; the highest threshold wins a tie.

    Args:
        false_positives: most false positives per image; gives the most sensitive point within it.
        sensitivity: least sensitivity; gives the highest threshold that reaches it, or None.

    Raises:
        ValueError: as :func:`operating_points`, or a limit out of range.
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
    """Compare scores with the share of hits in B bins; bin b holds [b/B, (b+1)/B), the last one also 1.

    Returns:
        "edges" (B + 1); B "counts" of detections, "confidence" (mean score) and "accuracy" (share of hits), None in
        an empty bin; "error": expected calibration error, the mean |accuracy - confidence| over detections.
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
    """Find the temperature with the least log loss (Guo et al. 2017); None without both hits and misses."""
    from scipy.optimize import minimize_scalar  # slow to import; applying a temperature needs none of it

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
"""Key of the entry for all classes together."""


def calibration_of(found: FrocDetections, class_names: Sequence[str], criterion: str) -> dict[str, Any]:
    """Measure the calibration of the scores of each class and of all together; empty if a score is outside [0, 1].

    Args:
        criterion: by which ``found`` was made.

    Returns:
        ``{"criterion", "classes": {name: result of reliability}}``, :data:`POOLED` last.
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
    """Apply a checkpoint's thresholds and temperature to these data.

    Args:
        found: by the criterion with which they were chosen.
        operating_point, calibration: of the checkpoint, see :mod:`~mdf_detectron.model_zoo.publishing`.

    Returns:
        ``{"operating_point": {"source", "classes": {name: {"threshold", "boxes", "chosen", "here"}}}, "calibration":
        {"source", "temperature", "error", "error_after"}}``, each None if the checkpoint holds none; "chosen" and
        "here" are ``{"false_positives" per image, "sensitivity"}``.
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
