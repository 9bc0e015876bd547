"""COCO annotations and COCO results as arrays, checked once.

A results file is a JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, each optionally with
``"segmentation"`` (run-length encoding or polygons). ``[]`` is valid: a model that finds nothing.

Shapes: I images (sorted by id, as COCO does), K classes (sorted by category id), G ground-truth boxes, D detections in
the order of the list.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.errors import DatasetError, ResultsError
from mdf_detectron.fileio import read_json


@dataclass(frozen=True)
class GroundTruth:
    """What detections are compared with.

    Attributes:
        images: I image dicts of the file (``id``, ``file_name``, ``patient_id``, ``clinical``, ...).
        image_ids: I ids, in the order of ``images``.
        category_ids, class_names: K of each.
        image, category: (G,) int64, index of a region's image and class.
        boxes: (G, 4) XYWH, pixels.
        areas: (G,) pixels²: the annotation's ``area``, else width × height.
        crowd: (G,) bool, ``iscrowd``.  Crowd regions are never missed and absorb detections, as in COCO.
        segmentations: G COCO segmentations, or None unless every region has one.
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
    segmentations: list[Any] | None

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @classmethod
    def load(cls, annotations: str | Path | Mapping[str, Any] | Any) -> GroundTruth:
        """From a COCO JSON file, its content as a dict, or a ``pycocotools.coco.COCO`` object.

        Raises:
            DatasetError: unreadable or empty file, missing part, duplicated id, unknown reference, bad box.
        """
        if isinstance(annotations, GroundTruth):
            return annotations
        where = "annotations"
        if isinstance(annotations, (str, Path)):
            where = str(annotations)
            annotations = read_json(annotations, DatasetError)
        elif not isinstance(annotations, Mapping):
            annotations = annotations.dataset
        return _from_dict(annotations, where)

    def image_weights(self, image_ids) -> np.ndarray:
        """(I,) float64: 1 for the images named, 0 for the others.

        Raises:
            DatasetError: an id that no image has.
        """
        index = {image_id: i for i, image_id in enumerate(self.image_ids)}
        weights = np.zeros(self.num_images)
        for image_id in image_ids:
            if image_id not in index:
                raise DatasetError(f"image id {image_id!r} is not in the annotations")
            weights[index[image_id]] = 1.0
        return weights


def _from_dict(data: Mapping[str, Any], where: str) -> GroundTruth:
    if not isinstance(data, Mapping):
        raise DatasetError(f"{where}: expected a COCO annotation object, got a {type(data).__name__}")
    for part in ("images", "annotations", "categories"):
        if not isinstance(data.get(part), list):
            raise DatasetError(f"{where}: no '{part}' list; this is not a COCO annotation file")
    images = _sorted_by_id(data["images"], where, "image")
    categories = _sorted_by_id(data["categories"], where, "category")
    image_index = {image["id"]: i for i, image in enumerate(images)}
    class_index = {category["id"]: i for i, category in enumerate(categories)}
    regions = data["annotations"]
    if not _all_plain(regions, image_index, class_index):  # something is odd: find the entry and say what
        for i, region in enumerate(regions):
            _check_region(region, f"{where}: annotations[{i}]", image_index, class_index)
    boxes = np.array([r["bbox"] for r in regions], dtype=np.float64).reshape(-1, 4)
    has_masks = bool(regions) and all(r.get("segmentation") for r in regions)
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in images}
    return GroundTruth(
        images=tuple(images),
        image_ids=tuple(image["id"] for image in images),
        category_ids=tuple(category["id"] for category in categories),
        class_names=tuple(str(category.get("name", category["id"])) for category in categories),
        image=np.array([image_index[r["image_id"]] for r in regions], dtype=np.int64),
        category=np.array([class_index[r["category_id"]] for r in regions], dtype=np.int64),
        boxes=boxes,
        areas=np.array([r.get("area", r["bbox"][2] * r["bbox"][3]) for r in regions], dtype=np.float64),
        crowd=np.array([bool(r.get("iscrowd", 0)) for r in regions], dtype=bool),
        segmentations=[(r["segmentation"], *sizes[r["image_id"]]) for r in regions] if has_masks else None,
    )


def _sorted_by_id(entries: list[dict], where: str, kind: str) -> list[dict]:
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or "id" not in entry:
            raise DatasetError(f"{where}: {kind} entry {i} has no id")
    doubled = [i for i, n in Counter(entry["id"] for entry in entries).items() if n > 1]
    if doubled:
        raise DatasetError(f"{where}: {kind} id {doubled[0]!r} is there twice ({len(doubled)} such ids)")
    return sorted(entries, key=lambda entry: (str(type(entry["id"])), entry["id"]))


def _all_plain(regions: list, image_index: dict, class_index: dict) -> bool:
    """Whether every region is as it should be, told without looking at each by itself."""
    try:
        known = all(r["image_id"] in image_index and r["category_id"] in class_index for r in regions)
        boxes = [r["bbox"] for r in regions]
        if not (known and set(map(type, boxes)) <= {list, tuple} and set(map(len, boxes)) <= {4}):
            return False
        values = np.fromiter(chain.from_iterable(boxes), np.float64, count=4 * len(boxes)).reshape(-1, 4)
    except (KeyError, TypeError, ValueError):
        return False
    return bool(np.isfinite(values).all() and (values[:, 2:] >= 0).all())


def _check_region(region: Mapping[str, Any], entry: str, image_index: dict, class_index: dict) -> None:
    if not isinstance(region, Mapping) or not {"image_id", "category_id", "bbox"} <= region.keys():
        raise DatasetError(f"{entry}: needs image_id, category_id and bbox")
    if region["image_id"] not in image_index:
        raise DatasetError(f"{entry}: image_id {region['image_id']!r} is not among the images")
    if region["category_id"] not in class_index:
        raise DatasetError(f"{entry}: category_id {region['category_id']!r} is not among the categories")
    message = box_problem(region["bbox"])
    if message:
        raise DatasetError(f"{entry} (image_id {region['image_id']!r}): {message}")


def box_problem(box: Any) -> str:
    """What is wrong with an XYWH box, or an empty string."""
    if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4:
        return f"bbox {box!r} is not [x, y, width, height]"
    try:
        values = [float(v) for v in box]
    except (TypeError, ValueError):
        return f"bbox {list(box)} holds something that is no number"
    if not all(map(math.isfinite, values)):
        return f"bbox {values} is not finite"
    if values[2] < 0 or values[3] < 0:
        return f"bbox {values} has a negative size"
    return ""


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
            ResultsError: unreadable or empty file, no list, a missing key, an unknown image or category,
                a score or box that is not finite, a negative size.
        """
        if isinstance(predictions, Detections):
            return predictions
        where = "predictions"
        if isinstance(predictions, (str, Path)):
            where = str(predictions)
            predictions = read_json(predictions, ResultsError)
        if not isinstance(predictions, list):
            raise ResultsError(f"{where}: expected a list of COCO results, got a {type(predictions).__name__}")
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
            raise ResultsError(f"{where}[{i}]: expected an object, got a {type(result).__name__}")
        missing = [key for key in ("image_id", "category_id", "score") if key not in result]
        if missing or not ("bbox" in result or "segmentation" in result):
            raise ResultsError(f"{where}[{i}]: has no {missing[0] if missing else 'bbox'}")
    _check_known(results, "image_id", images, where)
    _check_known(results, "category_id", classes, where)


def _check_known(results: list[Mapping[str, Any]], key: str, known: Mapping[Any, int], where: str) -> None:
    unknown = [i for i, r in enumerate(results) if not _hashable(r[key]) or r[key] not in known]
    if unknown and len(unknown) == len(results):
        raise ResultsError(
            f"{where}: not one {key} is in the annotations (the first is {results[0][key]!r}); "
            "these are results of another dataset"
        )
    if unknown:
        i = unknown[0]
        raise ResultsError(
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
        raise ResultsError(f"{where}[{i}] (image_id {results[i]['image_id']!r}): {message}")
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
            raise ResultsError(f"{where}[{i}] (image_id {result['image_id']!r}): score {score!r} is no finite number")
    return np.array([r["score"] for r in results], dtype=np.float64)
