"""Read annotations: COCO JSON, a table of boxes, or a format of :mod:`..kit.annotation_formats`."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from mdf_detectron.data.annotations import check_annotations
from mdf_detectron.data.sources.kit.annotation_formats import (
    CLASS_COLUMNS,
    CLASS_LISTS,
    READERS,
    Builder,
    Reader,
    enclose,
    is_class_list,
    read_class_list,
)
from mdf_detectron.data.sources.kit.studies import FRACTION, SourceAnnotations, SourceImage
from mdf_detectron.data.sources.kit.table import Table, read_table
from mdf_detectron.data.sources.kit.values import fold, is_empty, parse_number
from mdf_detectron.errors import DatasetError, SourceDataError, UserError, cut, short_text, shorten
from mdf_detectron.fileio import read_json, read_text, read_xml

ROLES: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_id", "imageid", "filename", "file_name", "file", "image_path", "path", "image index",
              "image_name", "dicom_id", "patientid", "name", "id"),
    "class": CLASS_COLUMNS,
    "x1": ("x1", "xmin", "x_min", "left", "bbox_x1"), "y1": ("y1", "ymin", "y_min", "top", "bbox_y1"),
    "x2": ("x2", "xmax", "x_max", "right", "bbox_x2"), "y2": ("y2", "ymax", "y_max", "bottom", "bbox_y2"),
    "x": ("x", "bbox_x"), "y": ("y", "bbox_y"), "w": ("w", "width", "bbox_w", "box_width"),
    "h": ("h", "height", "bbox_h", "box_height"), "box": ("bbox", "box", "bounding_box"),
}  # fmt: skip
"""Roles of the columns of a table of boxes, and names by which they are recognized."""

FORMS = CORNERS, SIZE, ONE = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h"), ("box",)
"""Roles of the columns of a box; "box" is one with all of x, y, width and height."""

NO_IMAGE = "box without an image"
AGREEMENT = 0.7
"""Least IoU of a box with the extent of its mask, and least ratio of its area to the one that is given."""

TABLES = (".csv", ".tsv", ".tab", ".gz", ".xlsx", ".xls", ".parquet", ".pq")
_NO_LABELS = re.compile(r"(readme.*|train|val|valid|test|trainval)\.txt|notes\.json")


def annotation_files(paths: Sequence[Path]) -> dict[Path, Path]:
    """Map annotation files to what names them: themselves, or a folder, for the files below it.

    A data.yaml alone stands for its folder, too. A list of classes at or above YOLO's labels belongs to them.
    """
    if len(paths) == 1 and is_class_list(paths[0]):
        paths = [paths[0].parent, paths[0]]
    found: dict[Path, Path] = {}
    for path in paths:
        below = [path]
        if path.is_dir():
            below = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in (".json", ".xml", ".txt", ".names")
                     and not _NO_LABELS.fullmatch(p.name.lower())]  # fmt: skip
            if not below:
                raise SourceDataError(f"{path}: no annotation file below it (.json, .xml or .txt)")
        found |= dict.fromkeys(below, path)
    lowest = {(file.parent, named) for file, named in found.items() if file.suffix.lower() == ".txt"}
    folders = {p for last, named in lowest for above, p in enumerate((last, *last.parents))
               if above < 3 or p.is_relative_to(named) or "labels" in last.parts[: len(p.parts) + 2]}  # fmt: skip
    lists = (folder / name for folder in sorted(folders) for name in CLASS_LISTS)
    return found | {file: file.parent for file in lists if file not in found and file.is_file()}


def read_annotation_files(files: Mapping[Path, Path], build: Builder, units: str = "pixels") -> SourceAnnotations:
    """Read the files of :func:`annotation_files`, all of one format; classes are matched by name.

    Args:
        units: "fraction" if boxes in pixels, as of COCO JSON or a table, are fractions of the image.
    """
    lists = sorted(filter(is_class_list, files), key=lambda p: (files[p] == p, p.suffix.lower()[:2] == ".y"))
    build.class_lists = {path.parent: read_class_list(path) for path in lists}  # the last counts
    alone = [os.path.abspath(path.parent) for path, given in files.items() if path == given]
    chosen: Reader | None = None
    for path in (path for path in files if not is_class_list(path)):
        content, before = _content(path), len(build.read.images)
        reader = next((reader for reader in FORMATS if reader.recognizes(content)), None)
        if reader is None:
            raise SourceDataError(f"{path}: none of the formats that are read, {', '.join(r.name for r in FORMATS)}; "
                                  "export it as one of them")  # fmt: skip
        if reader is not (chosen := chosen or reader):
            raise SourceDataError(f"{path} is {reader.name}, the files before it are {chosen.name}; name those of one")
        build.root = Path(os.path.commonpath(alone)) if files[path] == path else files[path]
        build.where = os.path.relpath(path, build.root).replace(os.sep, "/")
        try:
            reader.read(path, content, build)
        except UserError:
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            why = short_text(error) if type(error) in (KeyError, ValueError) else "a value of another kind"
            raise SourceDataError(f"{path}: not as {reader.name} writes it ({why}); export it again") from None
        images = build.read.images[before:]
        for image in images:
            image.task = path.parent if len(images) == 1 and files[path] == path else files[path]
    read, first = build.finish(), next(iter(files))
    if not build.problems.counts and not (read.images and read.boxes_in):
        raise SourceDataError(f"{first}: {len(read.images)} images and no box in it; was it exported before anything "
                              "was labeled, or without the annotations?")  # fmt: skip
    _check_units(build, units)
    return read


def _content(path: Path) -> Any:
    """Return the content of a file for :class:`Reader`; None may be a table."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        data = read_json(path, SourceDataError, nan=True)
        return data if isinstance(data, (dict, list)) else {}
    if suffix == ".txt":
        text = read_text(path, SourceDataError)
        return None if set(",;\t|") & set(text.lstrip().partition("\n")[0]) else text
    return read_xml(path, SourceDataError) if suffix == ".xml" else None if suffix in TABLES else {}


def _check_units(build: Builder, units: str) -> None:
    """Refuse boxes in fractions of the image that are not said to be, and the reverse."""
    for image in build.read.images:
        image.size = FRACTION if units == "fraction" else image.size
        for box in list(image.boxes):
            x, y, w, h = box["bbox"]
            if max(x + w, y + h) > 1.05 if image.size == FRACTION else max(x + w, y + h) <= 1:
                text = "lies within the first pixel; if it is a fraction of the image, say --box-units fraction"
                text = "is in pixels; a fraction of the image was expected" if image.size == FRACTION else text
                build.drop(image, f"{image.where}: box {x:.4g}, {y:.4g}, {w:.4g}, {h:.4g} {text}")
                image.boxes.remove(box)


def _read_coco(path: Path, data: Any, build: Builder) -> None:
    read, problems = build.read, build.problems
    try:
        sound = check_annotations(data, path.name, prepared=False, report=problems.add)
    except DatasetError as error:
        raise SourceDataError(str(error)) from None
    names = sound.class_of
    used = {annotation["category_id"] for annotation in sound.annotations}
    if used and (unused := [name for key, name in names.items() if key not in used]):
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
    lost = Counter(entry.get("image_id") for entry in data["annotations"]
                   if isinstance(entry, Mapping) and isinstance(entry.get("image_id"), (int, float, str)))  # fmt: skip
    lost.subtract(annotation["image_id"] for annotation in sound.annotations)
    for key, image in by_id.items():
        image.unusable = max(0, lost[key])
    for annotation in sound.annotations:
        image = by_id.get(annotation["image_id"])
        if image is None:
            read.dropped["image without a file name"] += 1
            continue
        kept = {key: annotation[key] for key in ("segmentation", "iscrowd") if annotation.get(key)}
        image.boxes.append({"bbox": _upright(annotation, build), "class": names[annotation["category_id"]], **kept})
    read.images += by_id.values()
    some = sound.annotations[:1000]
    if 2 * (wrong := sum(map(_contradicts_itself, some))) > len(some):
        read.notes.append(f"**{wrong} of the first {len(some)} boxes of {path.name} disagree with their mask or area**:"
                          " corners in the place of a size, or an error of the export?")  # fmt: skip


def _upright(annotation: Mapping[str, Any], build: Builder) -> Sequence[float]:
    """Return a box, or what encloses it if CVAT wrote that it is turned."""
    attributes = annotation.get("attributes")
    angle = (attributes if isinstance(attributes, Mapping) else annotation).get("rotation")
    if not angle or not (degrees := parse_number(angle)[0]):
        return annotation["bbox"]
    build.enclosed["turned boxes"] += 1
    return enclose("box", annotation["bbox"], degrees)[0]


def _contradicts_itself(annotation: Mapping[str, Any]) -> bool:
    """Tell whether a box is not the extent of its mask or, without one, not of its area."""
    mask, area, (_, _, w, h) = annotation.get("segmentation"), annotation.get("area"), annotation["bbox"]
    if isinstance(mask, list) and mask:
        mask = [enclose("polygon", (v for part in mask for v in part))[0]]
    elif isinstance(mask, dict) and isinstance(mask["counts"], str):
        mask = [coco_mask.toBbox(mask).tolist()]
    else:
        known = isinstance(area, (int, float)) and 1 < area < 1e12
        return known and not AGREEMENT <= area / (w * h) <= 1 / AGREEMENT
    return coco_mask.iou(mask, [list(map(float, annotation["bbox"]))], [0])[0][0] < AGREEMENT


def _read_box_table(path: Path, content: None, build: Builder) -> None:
    table = read_table(path, build.problems)
    roles = _roles(table, build.columns)
    form = next(form for form in FORMS if set(form) <= roles.keys())
    sized = form != SIZE and {"w", "h"} <= roles.keys()  # some tools write the image's size in these columns
    images: dict[str, SourceImage] = {}
    for number, row in enumerate(table.rows):
        name, where = row[roles["image"]], table.place(number)
        if is_empty(name):
            build.problems.add(NO_IMAGE, f"{where}: column '{roles['image']}' is empty; expected an image")
            table.dropped[NO_IMAGE] += 1
            continue
        name = str(name).strip()
        image = images[name] = images.get(name) or build.image(name, where)
        if sized:
            image.size = _image_size(row, roles) or image.size
        values = [row[roles[role]] for role in form]
        if all(map(is_empty, values)):
            continue  # an image without findings
        shown = ", ".join(f"{roles[role]} {shorten(row[roles[role]], 20)}" for role in form)
        if form == ONE:
            values = re.split(r"[\s,;]+", str(values[0]).strip("[](){} "))
        values = [None if is_empty(value) else parse_number(value, build.decimal_comma)[0] for value in values]
        label = str(row[roles["class"]]).strip() if "class" in roles else build.class_name
        build.box(image, label, "corners" if form == CORNERS else "box", values, where=f"{where}: {shown}")
    build.read.notes += [f"{path.name}: {n} rows are left out: {reason}." for reason, n in table.dropped.items()]
    if form == ONE:
        build.read.notes.append(f"{path.name}: '{roles['box']}' is read as x, y, width, height.")


def _roles(table: Table, given: Mapping[str, str]) -> dict[str, str]:
    """Map roles to columns: the given ones, then recognized names."""
    if unknown := [role for role in given if role not in ROLES]:
        raise SourceDataError(f"box columns: no role {', '.join(unknown)}; the roles are {', '.join(ROLES)}")
    table.require(list(given.values()), "--box-columns")
    by_name = {fold(column): column for column in table.columns}
    roles = dict(given)
    for role, names in ROLES.items():
        known = next((by_name[name] for name in names if name in by_name), None)
        if role not in roles and known and known not in roles.values():
            roles[role] = known
    if "image" not in roles or not any(set(form) <= roles.keys() for form in FORMS):
        columns = cut(", ".join(table.columns), 100)  # a header may be as long as it likes
        raise SourceDataError(
            f"{table.path}: which columns are the image and the box? Name them: --box-columns image=COLUMN x1=COLUMN "
            f"y1=COLUMN x2=COLUMN y2=COLUMN (or x, y, w, h, or all as box=COLUMN) and class=COLUMN; it has {columns}"
        )
    return roles


def _image_size(row: Mapping[str, Any], roles: Mapping[str, str]) -> tuple[int, int] | None:
    numbers = [parse_number(row[roles[r]])[0] for r in ("w", "h")]
    return (int(numbers[0]), int(numbers[1])) if all(n is not None and n >= 1 for n in numbers) else None


FORMATS = [
    *READERS,
    Reader("COCO", lambda content: isinstance(content, Mapping) and bool(
        {"images", "annotations", "categories"} & content.keys()), _read_coco),
    Reader("a table of boxes", lambda content: content is None, _read_box_table),
]  # fmt: skip
"""The formats in the order in which they are tried."""
