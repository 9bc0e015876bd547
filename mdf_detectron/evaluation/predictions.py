"""Predictions in COCO results format as arrays, checked once.

A results file is a JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, each optionally with
``"segmentation"`` (run-length encoding or polygons).  ``[]`` is valid: a model that finds nothing.

Shapes: D detections, in the order of the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.errors import UserError
from mdf_detectron.evaluation.ground_truth import GroundTruth, box_problem, read_json


class PredictionError(UserError, ValueError):
    """Predictions that cannot be scored; the message names the entry."""


@dataclass(frozen=True)
class Detections:
    """Predictions on the images and classes of one :class:`GroundTruth`.

    Attributes:
        image, category: (D,) int64, indices into the ground truth's images and classes.
        boxes: (D, 4) XYWH, pixels.
        scores: (D,) float64, finite; the higher the surer.
        segmentations: D (segmentation, image height, image width), or None unless every detection has a mask.
    """

    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    segmentations: list[Any] | None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def load(cls, predictions: str | Path | Sequence[Mapping[str, Any]], ground_truth: GroundTruth) -> Detections:
        """From a results file or its content.

        Raises:
            PredictionError: unreadable or empty file, no list, a missing key, an unknown image or category,
                a score or box that is not finite, a negative size.
        """
        if isinstance(predictions, Detections):
            return predictions
        where = "predictions"
        if isinstance(predictions, (str, Path)):
            where = str(predictions)
            predictions = read_json(predictions, PredictionError)
        if not isinstance(predictions, list):
            raise PredictionError(f"{where}: expected a list of COCO results, got a {type(predictions).__name__}")
        return _from_list(predictions, ground_truth, where)


def _from_list(results: list[Mapping[str, Any]], ground_truth: GroundTruth, where: str) -> Detections:
    images = {image_id: i for i, image_id in enumerate(ground_truth.image_ids)}
    classes = {category_id: i for i, category_id in enumerate(ground_truth.category_ids)}
    columns = _plain_columns(results, images, classes)
    if columns is None:  # something is odd: find the entry and say what
        _check_entries(results, images, classes, where)
        columns = (
            np.array([images[r["image_id"]] for r in results], dtype=np.int64),
            np.array([classes[r["category_id"]] for r in results], dtype=np.int64),
            _scores(results, where),
        )
    image, category, scores = columns
    masks = None
    if results and all(r.get("segmentation") for r in results):
        sizes = [(image.get("height"), image.get("width")) for image in ground_truth.images]
        masks = [(r["segmentation"], *sizes[i]) for r, i in zip(results, image, strict=True)]
    return Detections(
        image=image,
        category=category,
        boxes=_boxes(results, where),
        scores=scores,
        segmentations=masks,
    )


def _plain_columns(results: list, images: dict, classes: dict) -> tuple[np.ndarray, ...] | None:
    """Image and class indices and scores where every entry is as it should be, without looking at each; else None."""
    try:
        image = np.array([images[r["image_id"]] for r in results], dtype=np.int64)
        category = np.array([classes[r["category_id"]] for r in results], dtype=np.int64)
        values = [r["score"] for r in results]
        plain = set(map(type, values)) <= {int, float} and all("bbox" in r or "segmentation" in r for r in results)
    except (KeyError, TypeError):
        return None
    scores = np.array(values if plain else [np.nan], dtype=np.float64)
    return (image, category, scores) if np.isfinite(scores).all() else None


def _check_entries(results: list, images: dict, classes: dict, where: str) -> None:
    for i, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise PredictionError(f"{where}[{i}]: expected an object, got a {type(result).__name__}")
        missing = [key for key in ("image_id", "category_id", "score") if key not in result]
        if missing or not ("bbox" in result or "segmentation" in result):
            raise PredictionError(f"{where}[{i}]: has no {missing[0] if missing else 'bbox'}")
    _check_known(results, "image_id", images, where)
    _check_known(results, "category_id", classes, where)


def _check_known(results: list[Mapping[str, Any]], key: str, known: Mapping[Any, int], where: str) -> None:
    unknown = [i for i, r in enumerate(results) if not _hashable(r[key]) or r[key] not in known]
    if unknown and len(unknown) == len(results):
        raise PredictionError(
            f"{where}: not one {key} is in the annotations (the first is {results[0][key]!r}); "
            "these are results of another dataset"
        )
    if unknown:
        i = unknown[0]
        raise PredictionError(
            f"{where}[{i}]: {key} {results[i][key]!r} is not in the annotations ({len(unknown)} such entries)"
        )


def _hashable(value: Any) -> bool:
    return isinstance(value, (int, str, np.integer))


def _boxes(results: list[Mapping[str, Any]], where: str) -> np.ndarray:
    boxes = [r["bbox"] if "bbox" in r else _mask_box(r["segmentation"]) for r in results]
    try:
        if not set(map(type, boxes)) <= {list, tuple, np.ndarray} or not set(map(len, boxes)) <= {4}:
            raise ValueError("a box that is no four numbers")
        array = np.fromiter(chain.from_iterable(boxes), np.float64, count=4 * len(boxes)).reshape(-1, 4)
        good = bool(np.isfinite(array).all() and (array[:, 2:] >= 0).all())
    except (TypeError, ValueError):
        good = False
    if not good:
        i, message = next((i, m) for i, m in enumerate(map(box_problem, boxes)) if m)
        raise PredictionError(f"{where}[{i}] (image_id {results[i]['image_id']!r}): {message}")
    return array


def _mask_box(segmentation: Any) -> list[float]:
    """Box of a mask that comes without one."""
    import pycocotools.mask as mask_utils

    if isinstance(segmentation, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        low, high = points.min(axis=0), points.max(axis=0)
        return [*low.tolist(), *(high - low).tolist()]
    return mask_utils.toBbox(segmentation).tolist()


def _scores(results: list[Mapping[str, Any]], where: str) -> np.ndarray:
    for i, result in enumerate(results):
        score = result["score"]
        if not isinstance(score, (int, float, np.floating, np.integer)) or not np.isfinite(score):
            raise PredictionError(
                f"{where}[{i}] (image_id {result['image_id']!r}): score {score!r} is no finite number"
            )
    return np.array([r["score"] for r in results], dtype=np.float64)
