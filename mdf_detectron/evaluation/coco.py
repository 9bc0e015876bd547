"""COCO annotations and results as arrays, checked once.

A results file is a JSON list, possibly empty, of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, each
optionally with ``"segmentation"`` (run-length encoding or polygons).

Shapes: I images (sorted by id), K classes (sorted by category id), G ground-truth boxes, D detections (in the order of
the list).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.annotations import (
    LARGEST_COORDINATE,
    Annotations,
    box_problem,
    check_annotations,
    read_annotations,
    unknown_reference,
)
from mdf_detectron.data.masks import Segmentation, segmentation_problems
from mdf_detectron.data.schema import is_missing
from mdf_detectron.errors import ResultsError, shorten
from mdf_detectron.fileio import read_json

PREDICTIONS_FILE_NAME = "coco_instances_results.json"
"""Of a run."""


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth of a dataset.

    Attributes:
        images: I image dicts of the file (``id``, ``file_name``, ``patient_id``, ``clinical``, ...); in clinical
            columns that hold only numbers, numeric text is converted to numbers.
        image_ids: I ids, in the order of ``images``.
        category_ids, class_names: K of each.
        image, category: (G,) int64, index of a ground-truth box's image and class.
        boxes: (G, 4) XYWH, pixels.
        areas: (G,) pixels²: the annotation's ``area``, else width × height.
        crowd: (G,) bool, ``iscrowd``. Crowds are never false negatives and absorb detections, as in COCO.
        segmentations: G (segmentation, image height, image width), or None unless every ground-truth box has a mask.
    """

    images: tuple[Mapping[str, Any], ...]
    image_ids: tuple[Any, ...]
    category_ids: tuple[Any, ...]
    class_names: tuple[str, ...]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    segmentations: list[Segmentation] | None

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @classmethod
    def load(cls, annotations: str | Path | Mapping[str, Any] | Annotations | Any) -> GroundTruth:
        """Read a COCO JSON file, its content, checked annotations or a ``pycocotools.coco.COCO`` object.

        Raises:
            DatasetError: invalid file or entry.
        """
        if isinstance(annotations, GroundTruth):
            return annotations
        if isinstance(annotations, Annotations):
            return _ground_truth(annotations)
        if isinstance(annotations, (str, Path)):
            return _ground_truth(read_annotations(annotations, prepared=False))
        if not isinstance(annotations, Mapping):
            annotations = annotations.dataset
        return _ground_truth(check_annotations(annotations, "annotations", prepared=False))


def _ground_truth(annotations: Annotations) -> GroundTruth:
    images = _with_numbers(sorted(annotations.images, key=lambda image: image["id"]))
    image_index = {image["id"]: i for i, image in enumerate(images)}
    class_index = {category["id"]: i for i, category in enumerate(annotations.categories)}
    boxes = annotations.annotations
    has_masks = bool(boxes) and all("segmentation" in b for b in boxes)
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in images}
    return GroundTruth(
        images=tuple(images),
        image_ids=tuple(image["id"] for image in images),
        category_ids=tuple(category["id"] for category in annotations.categories),
        class_names=tuple(annotations.class_names),
        image=np.array([image_index[b["image_id"]] for b in boxes], dtype=np.int64),
        category=np.array([class_index[b["category_id"]] for b in boxes], dtype=np.int64),
        boxes=np.array([b["bbox"] for b in boxes], dtype=np.float64).reshape(-1, 4),
        areas=np.array([b.get("area", b["bbox"][2] * b["bbox"][3]) for b in boxes], dtype=np.float64),
        crowd=np.array([b.get("iscrowd", 0) == 1 for b in boxes], dtype=bool),
        segmentations=[(b["segmentation"], *sizes[b["image_id"]]) for b in boxes] if has_masks else None,
    )


def _with_numbers(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert numeric text in clinical columns that hold only numbers, as training does with the schema."""
    values: dict[str, list[Any]] = {}
    for image in images:
        for name, value in (image.get("clinical") or {}).items():
            if not is_missing(value):
                values.setdefault(name, []).append(value)
    numeric = {name for name, found in values.items() if not any(_as_number(v) is None for v in found)}
    return [
        {**image, "clinical": {
            name: _as_number(value) if name in numeric and isinstance(value, str) else value
            for name, value in (image.get("clinical") or {}).items()
        }}
        for image in images
    ] if any(isinstance(v, str) for name in numeric for v in values[name]) else images  # fmt: skip


def _as_number(value: Any) -> float | None:
    """Return a finite number, as it is or of its text; None of anything else, missing values and booleans too."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Detections:
    """Predictions on the images and classes of one :class:`GroundTruth`.

    Attributes:
        image, category: (D,) int64, indices into the ground truth's images and classes.
        boxes: (D, 4) XYWH, pixels.
        scores: (D,) float64, finite; higher is more confident.
        segmentations: D (segmentation, image height, image width), or None unless every detection has a mask.
    """

    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    segmentations: list[Segmentation] | None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def load(cls, predictions: str | Path | Sequence[Mapping[str, Any]], ground_truth: GroundTruth) -> Detections:
        """Read a results file or its content.

        Raises:
            ResultsError: unreadable file, not a list, or an entry with a missing key, unknown image or category,
                non-finite score or box, negative size, or invalid mask.
        """
        if isinstance(predictions, Detections):
            return predictions
        where = "predictions"
        if isinstance(predictions, (str, Path)):
            where = str(predictions)
            predictions = read_json(predictions, ResultsError, nan=True)
        if not isinstance(predictions, list):
            raise ResultsError(
                f"{where}: expected a list of COCO results, [{{image_id, category_id, bbox, score}}, …], "
                f"got a {type(predictions).__name__}"
            )
        return _from_list(predictions, ground_truth, where)


def _from_list(results: list[Mapping[str, Any]], ground_truth: GroundTruth, where: str) -> Detections:
    images = {image_id: i for i, image_id in enumerate(ground_truth.image_ids)}
    classes = {category_id: i for i, category_id in enumerate(ground_truth.category_ids)}
    columns = _plain_columns(results, images, classes)
    if columns is None:  # find the invalid entry and raise
        _check_entries(results, images, classes, where)
        columns = _columns(results, images, classes)
    image, category, scores = columns
    masks = _masks(results, image, ground_truth, where)
    return Detections(image, category, _boxes(results, where), scores, masks)


def _columns(results: list, images: dict, classes: dict) -> tuple[np.ndarray, ...]:
    image = np.array([images[r["image_id"]] for r in results], dtype=np.int64)
    category = np.array([classes[r["category_id"]] for r in results], dtype=np.int64)
    return image, category, np.array([r["score"] for r in results], dtype=np.float64)


def _plain_columns(results: list, images: dict, classes: dict) -> tuple[np.ndarray, ...] | None:
    """Return the columns if a fast check finds nothing unusual, else None."""
    try:
        plain = {type(r["score"]) for r in results} <= {int, float}
        plain = plain and all("bbox" in r or r.get("segmentation") for r in results)
        plain = plain and bool not in set(
            map(type, chain.from_iterable((r["image_id"], r["category_id"]) for r in results))
        )
        columns = _columns(results, images, classes)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return columns if plain and np.isfinite(columns[2]).all() else None


def _check_entries(results: list, images: dict, classes: dict, where: str) -> None:
    for i, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise ResultsError(f"{where}[{i}]: expected an object, got {shorten(result)}")
        missing = [key for key in ("image_id", "category_id", "score") if key not in result]
        if missing or not ("bbox" in result or result.get("segmentation")):
            raise ResultsError(f"{where}[{i}]: has no {missing[0] if missing else 'bbox'}")
    _check_known(results, "image_id", images, where)
    _check_known(results, "category_id", classes, where)
    for i, result in enumerate(results):
        score = result["score"]
        number = isinstance(score, (int, float, np.floating, np.integer)) and not isinstance(score, bool)
        too_large = isinstance(score, int) and abs(score) > sys.float_info.max
        if not number or too_large or not np.isfinite(score):
            raise ResultsError(f"{_entry(results, i, where)}: score {shorten(score)} is not a finite number")


def _check_known(results: list[Mapping[str, Any]], key: str, known: Mapping[Any, int], where: str) -> None:
    ids = (int, str, float, np.integer)
    unknown = [i for i, r in enumerate(results)
               if not isinstance(r[key], ids) or isinstance(r[key], bool) or r[key] not in known]  # fmt: skip
    if not unknown:
        return
    i = unknown[0]
    text = f"{where}[{i}]: {unknown_reference(key, results[i][key], known)}"
    if len(unknown) == len(results) and "same way" not in text:
        raise ResultsError(f"{text}; this is so for every entry: are these results of another dataset?")
    raise ResultsError(f"{text} ({len(unknown)} such entries)")


def _boxes(results: list[Mapping[str, Any]], where: str) -> np.ndarray:
    boxes = [r["bbox"] if "bbox" in r else _mask_box(r["segmentation"]) for r in results]
    try:
        if not set(map(type, boxes)) <= {list, tuple, np.ndarray} or not set(map(len, boxes)) <= {4}:
            raise ValueError("a box that is not four numbers")
        array = np.fromiter(chain.from_iterable(boxes), np.float64, count=4 * len(boxes)).reshape(-1, 4)
        good = bool((np.abs(array) <= LARGEST_COORDINATE).all() and (array[:, 2:] >= 0).all())
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        i, message = next((i, m) for i, m in enumerate(map(box_problem, boxes)) if m)
        raise ResultsError(f"{_entry(results, i, where)}: {message}")
    return array


def _entry(results: list[Mapping[str, Any]], number: int, where: str) -> str:
    return f"{where}[{number}] (image_id {shorten(results[number]['image_id'])})"


def _masks(
    results: list[Mapping[str, Any]], image: np.ndarray, ground_truth: GroundTruth, where: str
) -> list[Segmentation] | None:
    """Check all masks; return them if every detection has one, else None."""
    with_mask = [i for i, r in enumerate(results) if r.get("segmentation")]
    sizes = [(one.get("height"), one.get("width")) for one in ground_truth.images]
    masks = [(results[i]["segmentation"], *sizes[image[i]]) for i in with_mask]
    for at, (_, height, width) in enumerate(masks):
        if height is None or width is None:
            text = "has a mask, but its image has no width and height in the annotations; add both"
            raise ResultsError(f"{_entry(results, with_mask[at], where)}: {text}")
    for at, problem in segmentation_problems(masks):
        raise ResultsError(f"{_entry(results, with_mask[at], where)}: segmentation: {problem}")
    return masks if masks and len(masks) == len(results) else None


def _mask_box(segmentation: Any) -> list[float]:
    import pycocotools.mask as mask_utils

    if isinstance(segmentation, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        low, high = points.min(axis=0), points.max(axis=0)
        return [*low.tolist(), *(high - low).tolist()]
    if isinstance(segmentation["counts"], list):
        segmentation = mask_utils.frPyObjects(segmentation, *segmentation["size"])
    return mask_utils.toBbox(segmentation).tolist()


def unusual(truth: GroundTruth, found: Detections) -> list[str]:
    """Say in one sentence each what is legal in predictions but makes their metrics mean little."""
    if not len(found):
        return []
    notes, (scores, boxes) = [], (found.scores, found.boxes)
    if len(found) > 1 and (scores == scores[0]).all():
        notes.append(f"all scores are {scores[0]:g}: AP ranks detections by score, so here it is of an arbitrary order")
    if outside := int(((scores < 0) | (scores > 1)).sum()):
        text = f"{outside} scores are not within 0 to 1 ({scores.min():g} to {scores.max():g})"
        notes.append(f"{text}: AP holds, thresholds and calibration do not; divide percentages by 100")
    rows = np.column_stack([found.image, found.category, boxes, scores])
    if doubled := len(found) - len(np.unique(rows, axis=0)):
        text = f"{doubled} of {len(found)} detections repeat another in image, class, box and score"
        notes.append(f"{text}: each counts as a false positive; were two runs written to one file?")
    sizes = np.array([[one.get("width") or np.inf, one.get("height") or np.inf] for one in truth.images])[found.image]
    ends = boxes[:, :2] + boxes[:, 2:]
    if (tiny := int((ends <= 1).all(1).sum())) > len(found) / 2:  # not all: fractions, too, may end a little beyond 1
        notes.append(f"{tiny} boxes lie within the first pixel: are they fractions? Multiply them by width and height")
    elif beyond := int(((boxes[:, :2] < -1 - sizes / 20) | (ends > 1 + sizes * 1.05)).any(1).sum()):
        text = f"{beyond} of {len(found)} boxes reach out of their image by more than 5 %"
        notes.append(f"{text}: are they of a resized image, or x0, y0, x1, y1 instead of x, y, width, height?")
    counts = np.bincount(truth.image[~truth.crowd], minlength=truth.num_images)
    empty = np.bincount(found.image, minlength=truth.num_images) == 0
    if (missed := int((empty & (counts > 0)).sum())) > 0.05 * (counts > 0).sum():
        text = f"{int(empty.sum())} of {truth.num_images} images have no detection, {missed} of them with annotations"
        notes.append(f"{text}: did the run end early, or were low scores left out, which AP needs?")
    if never := [truth.class_names[k] for k in sorted({*truth.category} - {*found.category})]:
        notes.append(f"no detection of {shorten(never)}, which the annotations have: are category ids counted alike?")
    return notes
