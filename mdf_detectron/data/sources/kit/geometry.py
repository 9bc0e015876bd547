"""Boxes and masks in the pixels of the image that was read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mdf_detectron.data.sources.kit.image_files import ImageFile
from mdf_detectron.data.sources.own.boxes import SourceImage

SHAPE_TOLERANCE = 0.02
"""Relative difference of aspect ratios up to which boxes of another size are scaled."""
FRACTION = (1, 1)

OTHER_SHAPE = "annotated at another shape"
NO_AREA, CLIPPED, SCALED = "box without area inside its image", "box clipped to its image", "box scaled to its image"


def differs_in_shape(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether the aspect ratios of two (width, height) differ, so that boxes of one do not fit the other."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) > SHAPE_TOLERANCE


def shape_problem(image: SourceImage, file: ImageFile) -> str:
    """Say what is wrong if the boxes were drawn on an image of another shape; an empty text if they fit."""
    if image.size is None or image.size == FRACTION:
        return ""
    (width, height), (there_width, there_height) = image.size, (file.source_width, file.source_height)
    if not differs_in_shape(image.size, (there_width, there_height)):
        return ""
    turned = abs(height * there_height / (width * there_width) - 1) <= SHAPE_TOLERANCE
    hint = "the sides are swapped: " if turned else ""
    oriented = "its orientation tag was not applied when it was annotated; " if turned and file.notes else ""
    return (
        f"{image.where}: its boxes are in {width} × {height} pixels, the file has {there_width} × {there_height}; "
        f"{hint}{oriented}boxes would not fit, annotate that file or correct the size"
    )


def place_boxes(
    image: SourceImage, file: ImageFile, class_names: list[str], dropped: Counter[str], changed: Counter[str]
) -> list[dict[str, Any]]:
    """Scale the boxes and masks to ``file``, clip the boxes, and leave out those without area.

    Returns:
        COCO annotations: ``bbox``, ``category_id`` (from 1); ``segmentation``, ``iscrowd`` and ``reader`` where given.
    """
    width, height = image.size or (file.source_width, file.source_height)
    scale = np.array([file.width / width, file.height / height])
    scaled_by_tool = image.size not in (None, FRACTION, (file.source_width, file.source_height))
    kept = []
    for box in image.boxes:
        x, y, w, h = box["bbox"]
        corners = np.array([[x, y], [x + w, y + h]]) * scale
        inside = np.clip(corners, 0, [file.width, file.height])
        size = inside[1] - inside[0]
        if size.min() < 1e-2:
            dropped[NO_AREA] += 1
            continue
        if np.abs(inside - corners).max() > 0.5:
            changed[CLIPPED] += 1
        if scaled_by_tool:
            changed[SCALED] += 1
        annotation: dict[str, Any] = {
            "bbox": [round(float(v), 2) for v in (*inside[0], *size)],
            "category_id": class_names.index(box["class"]) + 1,
        }
        if box.get("segmentation"):
            annotation["segmentation"] = scale_mask(box["segmentation"], scale, (file.width, file.height))
        if box.get("iscrowd"):
            annotation["iscrowd"] = 1
        if box.get("reader"):
            annotation["reader"] = box["reader"]
        kept.append(annotation)
    return kept


def scale_mask(segmentation: Any, scale: np.ndarray, size: tuple[int, int]) -> Any:
    """Scale polygons (clipped to the image) or a COCO RLE to an image of ``size`` (width, height)."""
    if isinstance(segmentation, list):
        polygons = []
        for polygon in segmentation:
            points = np.clip(np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale, 0, size)
            polygons.append([round(float(v), 2) for v in points.ravel()])
        return polygons
    height, width = segmentation["size"]
    if (width, height) == size:
        return segmentation
    rle = segmentation
    if isinstance(rle["counts"], list):
        rle = coco_mask.frPyObjects(rle, height, width)
    pixels = cv2.resize(coco_mask.decode(rle), size, interpolation=cv2.INTER_NEAREST)
    encoded = coco_mask.encode(np.asfortranarray(pixels))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
