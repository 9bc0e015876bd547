"""Read boxes from tables; scale boxes and masks to the pixels of the image that was read."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.image_files import ImageFile
from mdf_detectron.data.sources.kit.studies import FRACTION, SourceImage
from mdf_detectron.data.sources.kit.values import parse_number
from mdf_detectron.errors import shorten

SHAPE_TOLERANCE = 0.02
"""Largest relative difference of aspect ratios at which boxes are scaled to an image of another size."""

UNUSABLE_BOX, REPEATED_BOX = "unusable box", "repeats another box"
OTHER_SHAPE = "annotated at another shape"
PARTS = ("class", "segmentation", "iscrowd", "reader", "certainty")
"""What two boxes share besides their place if one repeats the other."""

NEAR, MOST_NEAR = 0.8, 2000
"""Least IoU of boxes that nearly coincide, and the most boxes of a class in an image that are compared."""

NO_AREA, CLIPPED, SCALED = "box without area inside its image", "box clipped to its image", "box scaled to its image"


def parse_box(values: Sequence[Any], place: str, job: Account, *, corners: bool = False) -> list[float] | None:
    """Parse x, y, width, height (with ``corners`` x1, y1, x2, y2) to XYWH.

    Return None and add a problem at ``place`` (file and line) if the box cannot be used.
    """
    numbers = [parse_number(value)[0] for value in values]
    if len(numbers) != 4 or None in numbers:
        text = f"box {', '.join(map(shorten, values))}; expected four numbers"
    else:
        x, y, third, fourth = numbers
        if not corners:
            return numbers
        if third > x and fourth > y:
            return [x, y, third - x, fourth - y]
        text = f"box from x {x:g} to {third:g}, y {y:g} to {fourth:g}; expected minimum before maximum"
    job.problems.add(UNUSABLE_BOX, f"{place}: {text}")
    return None


def differs_in_shape(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether the aspect ratios of two (width, height) differ by more than :data:`SHAPE_TOLERANCE`."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) > SHAPE_TOLERANCE


def shape_problem(image: SourceImage, file: ImageFile) -> str:
    """Return a message if the boxes were drawn on an image of another shape, else ""."""
    there = file.source_width, file.source_height
    if image.size in (None, FRACTION) or not differs_in_shape(image.size, there):
        return ""
    (width, height), turned = image.size, not differs_in_shape(image.size, there[::-1])
    hint = "the sides are swapped: " if turned else ""
    oriented = "its orientation tag was not applied when it was annotated; " if turned and file.notes else ""
    return (
        f"{image.where}: its boxes are in {width} × {height} pixels, the file has {there[0]} × {there[1]}; "
        f"{hint}{oriented}boxes would not fit, annotate that file or correct the size"
    )


def place_boxes(
    image: SourceImage, file: ImageFile, class_names: list[str], dropped: Counter[str], changed: Counter[str]
) -> list[dict[str, Any]]:
    """Scale boxes and masks to ``file``, clip the boxes, drop repeats and those without area; return annotations."""
    width, height = image.size or (file.source_width, file.source_height)
    scale = np.array([file.width / width, file.height / height])
    scaled_by_tool = image.size not in (None, FRACTION, (file.source_width, file.source_height))
    kept, seen = [], set()
    for box in image.boxes:
        x, y, w, h = box["bbox"]
        known = len(seen)
        seen.add((float(x), float(y), float(w), float(h), repr([box.get(key) for key in PARTS])))
        if len(seen) == known:
            dropped[REPEATED_BOX] += 1
            continue
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
        kept.append(annotation | {key: box[key] for key in ("reader", "certainty") if box.get(key)})
    return kept


def say_what_is_double(images: Sequence[SourceImage], notes: list[str]) -> None:
    """Note images of several tasks, and boxes that two readers, or two exports, may have drawn of one finding."""
    near: Counter[str] = Counter()
    for image in images:
        for name in {box["class"] for box in image.boxes} if len(image.boxes) > 1 else ():
            boxes = np.unique([box["bbox"] for box in image.boxes if box["class"] == name], axis=0).astype(float)
            boxes = boxes[:MOST_NEAR]
            overlaps = np.triu(coco_mask.iou(boxes, boxes, [0] * len(boxes)), 1)
            near[image.name] += int((overlaps >= NEAR).any(axis=0).sum())
    if near := +near:
        notes.append(f"{near.total()} boxes of {len(near)} images nearly coincide with another one of their class: two "
                     "readers, or two exports? A finding should have one.")  # fmt: skip
        logging.getLogger(__name__).info(f"boxes that nearly coincide: {', '.join(list(near)[:5])}")
    alone = sum(image.tasks == 1 for image in images)
    if several := len(images) - alone:
        rest = f"; **{alone} are in one of them only**, where a class of the others may be missing" if alone else ""
        notes.append(f"{several} images are in several annotation files, their boxes are put together{rest}.")


def scale_mask(segmentation: Any, scale: np.ndarray, size: tuple[int, int]) -> Any:
    """Scale polygons (clipped to the image) or a COCO RLE to ``size`` (width, height); ``scale`` is (x, y)."""
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
    return encode_mask(cv2.resize(coco_mask.decode(rle), size, interpolation=cv2.INTER_NEAREST))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return the COCO RLE of (H, W) bool or 0 and 1."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
