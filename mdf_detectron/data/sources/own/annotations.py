"""Read annotations: COCO JSON of any labeling tool, or a table of boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdf_detectron.data.annotations import check_annotations
from mdf_detectron.data.image_paths import stem
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.boxes import UNUSABLE_BOX
from mdf_detectron.data.sources.kit.studies import FRACTION, NO_FINDING, SourceAnnotations, SourceImage
from mdf_detectron.data.sources.kit.table import Table, read_table
from mdf_detectron.data.sources.kit.values import fold, is_empty, parse_number
from mdf_detectron.errors import DatasetError, SourceDataError, cut, shorten
from mdf_detectron.fileio import read_json

ROLES: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_id", "imageid", "filename", "file_name", "file", "image_path", "path", "image index",
              "image_name", "dicom_id", "patientid", "name", "id"),
    "class": ("class", "class_name", "label", "category", "category_name", "finding", "finding label", "finding_label"),
    "x1": ("x1", "xmin", "x_min", "left", "bbox_x1"), "y1": ("y1", "ymin", "y_min", "top", "bbox_y1"),
    "x2": ("x2", "xmax", "x_max", "right", "bbox_x2"), "y2": ("y2", "ymax", "y_max", "bottom", "bbox_y2"),
    "x": ("x", "bbox_x"), "y": ("y", "bbox_y"), "w": ("w", "width", "bbox_w", "box_width"),
    "h": ("h", "height", "bbox_h", "box_height"),
}  # fmt: skip
"""Roles of the columns of a table of boxes, and names by which they are recognized."""

CORNERS, SIZE = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")


def read_annotation_files(
    paths: Sequence[Path],
    problems: ProblemList,
    *,
    box_columns: Mapping[str, str],
    box_units: str,
    class_name: str,
    decimal_comma: bool = False,
) -> SourceAnnotations:
    """Read COCO JSON files, merging classes by name, or one table of boxes.

    The other arguments are for a table, see :class:`~mdf_detectron.data.sources.own.collection.OwnOptions`.
    """
    json_files = [p for p in paths if p.suffix.lower() == ".json"]
    if json_files and len(json_files) < len(paths) or not json_files and len(paths) > 1:
        raise SourceDataError("annotations: name COCO JSON files, or one table of boxes")
    if json_files:
        read = _read_coco(json_files, problems)
    else:
        table = read_table(paths[0], problems)
        read = _read_box_table(table, problems, box_columns, box_units, class_name, decimal_comma)
    if not read.images and not problems.counts:
        raise SourceDataError(f"{paths[0]}: no image in it")
    return read


def _read_coco(paths: Sequence[Path], problems: ProblemList) -> SourceAnnotations:
    read = SourceAnnotations()
    for path in paths:
        try:
            data = read_json(path, SourceDataError, nan=True)
            sound = check_annotations(data, path.name, prepared=False, report=problems.add)
        except DatasetError as error:
            raise SourceDataError(str(error)) from None
        names = {category["id"]: category["name"] for category in sound.categories}
        used = {annotation["category_id"] for annotation in sound.annotations}
        if unused := [name for key, name in names.items() if key not in used]:
            read.notes.append(f"{path.name}: no box of the class {', '.join(unused)}; it is left out.")
        read.class_names += [n for key, n in names.items() if key in used and n not in read.class_names]
        by_id: dict[Any, SourceImage] = {}
        for image in sound.images:
            name = image.get("file_name")
            if not isinstance(name, str) or not name.strip():
                text = f"{path.name}: image {shorten(image['id'])} has no file_name; expected the name of its file"
                problems.add("image without a file name", text)
                continue
            size = (image["width"], image["height"]) if image.get("width") and image.get("height") else None
            by_id[image["id"]] = SourceImage(name, str(image["id"]), f"{path.name}: image {name}", size)
        read.images_in += len(data["images"])
        read.boxes_in += len(data["annotations"])
        read.dropped["unusable entry (see the problems)"] += len(data["annotations"]) - len(sound.annotations)
        for annotation in sound.annotations:
            image = by_id.get(annotation["image_id"])
            if image is None:
                read.dropped["image without a file name"] += 1
                continue
            kept = {key: annotation[key] for key in ("segmentation", "iscrowd") if annotation.get(key)}
            image.boxes.append({"bbox": annotation["bbox"], "class": names[annotation["category_id"]], **kept})
        read.images += by_id.values()
    return read


def _read_box_table(
    table: Table, problems: ProblemList, given: Mapping[str, str], units: str, class_name: str, decimal_comma: bool
) -> SourceAnnotations:
    roles = _roles(table, given)
    form = CORNERS if "x1" in roles else SIZE
    sized = form == CORNERS and {"w", "h"} <= roles.keys()  # some tools write the image's size in these columns
    images: dict[str, SourceImage] = {}
    read = SourceAnnotations()
    classes: dict[str, str] = {}
    for number, row in enumerate(table.rows):
        name, where = row[roles["image"]], table.place(number)
        if is_empty(name):
            problems.add("box without an image", f"{where}: column '{roles['image']}' is empty; expected an image")
            table.dropped["box without an image"] += 1
            continue
        name = str(name).strip()
        image = images.setdefault(name, SourceImage(name, stem(name), where))
        if sized:
            image.size = _image_size(row, roles) or image.size
        empty = [is_empty(row[roles[r]]) for r in form]
        numbers = [None if is_empty(row[roles[r]]) else parse_number(row[roles[r]], decimal_comma)[0] for r in form]
        if all(empty):
            continue  # an image without findings
        read.boxes_in += 1
        bbox, wrong = _bbox(numbers, form)
        label = str(row[roles["class"]]).strip() if "class" in roles else class_name
        if wrong or is_empty(label) or fold(label) in NO_FINDING:
            wrong = wrong or f"class {shorten(label)} with a box; expected the name of a finding"
            values = ", ".join(f"{roles[r]} {shorten(row[roles[r]], 20)}" for r in form)
            problems.add(UNUSABLE_BOX, f"{where}: {values}: {wrong}")
            read.dropped[UNUSABLE_BOX] += 1
            continue
        label = classes.setdefault(fold(label), label)
        if units == "fraction":
            image.size = FRACTION
        image.boxes.append({"bbox": bbox, "class": label})
    read.images, read.images_in = list(images.values()), len(images)
    read.class_names = sorted(classes.values(), key=str.casefold)
    read.notes += [f"{table.path.name}: {n} rows are left out: {reason}." for reason, n in table.dropped.items()]
    return read


def _roles(table: Table, given: Mapping[str, str]) -> dict[str, str]:
    """Map roles to columns: the given ones, then recognized names."""
    unknown = [role for role in given if role not in ROLES]
    if unknown:
        raise SourceDataError(f"box columns: no role {', '.join(unknown)}; the roles are {', '.join(ROLES)}")
    table.require(list(given.values()), "--box-columns")
    by_name = {fold(column): column for column in table.columns}
    roles = dict(given)
    for role, names in ROLES.items():
        known = next((by_name[name] for name in names if name in by_name), None)
        if role not in roles and known and known not in roles.values():
            roles[role] = known
    complete = [form for form in (CORNERS, SIZE) if set(form) <= roles.keys()]
    if "image" not in roles or not complete:
        columns = cut(", ".join(table.columns), 100)  # a header may be as long as it likes
        raise SourceDataError(
            f"{table.path}: which columns are the image and the box? Name them: --box-columns image=COLUMN x1=COLUMN "
            f"y1=COLUMN x2=COLUMN y2=COLUMN (or x, y, w, h) and class=COLUMN; the file has {columns}"
        )
    return roles


def _bbox(numbers: Sequence[float | None], form: tuple[str, ...]) -> tuple[list[float], str]:
    """Return XYWH, and what is wrong with it ("" if nothing)."""
    if any(n is None or not math.isfinite(n) for n in numbers):
        return [], "expected four numbers, or none for an image without a finding"
    x, y, third, fourth = numbers
    w, h = (third - x, fourth - y) if form == CORNERS else (third, fourth)
    return [x, y, w, h], "" if w > 0 and h > 0 else "the box has no area; expected corners in order, or a positive size"


def _image_size(row: Mapping[str, Any], roles: Mapping[str, str]) -> tuple[int, int] | None:
    numbers = [parse_number(row[roles[r]])[0] for r in ("w", "h")]
    return (int(numbers[0]), int(numbers[1])) if all(n is not None and n >= 1 for n in numbers) else None
