"""How far scores are probabilities, and what thresholds that were chosen on other data do here; JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mdf_detectron.evaluation.froc import FrocDetections
from mdf_detectron.evaluation.operating_point import Reliability, calibrated, reliability
from mdf_detectron.fileio import finite_or_none

POOLED = "all"
"""Name of the entry of all classes together."""


def reliability_dict(one: Reliability) -> dict[str, Any]:
    """Return the JSON form of a reliability diagram."""
    lists = {key: getattr(one, key).tolist() for key in ("edges", "counts", "confidence", "accuracy")}
    return finite_or_none({**lists, "error": one.error})


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
    return {"criterion": criterion, "classes": {name: reliability_dict(one) for name, one in diagrams.items()}}


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
        errors = [reliability(one, found.true_positive).error for one in scores]
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
