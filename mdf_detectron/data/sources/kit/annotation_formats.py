"""Read what labeling tools write: YOLO, Pascal VOC, CVAT, Label Studio, Labelme and VIA, each chosen by content."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element

from mdf_detectron.data.annotations import LARGEST_SIDE, box_problem
from mdf_detectron.data.image_paths import IMAGE_SUFFIXES, stem
from mdf_detectron.data.masks import segmentation_problems
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.boxes import UNUSABLE_BOX
from mdf_detectron.data.sources.kit.studies import FRACTION, NO_FINDING, SourceAnnotations, SourceImage
from mdf_detectron.data.sources.kit.values import fold, is_empty
from mdf_detectron.errors import SourceDataError, short_text, shorten
from mdf_detectron.fileio import read_text, read_yaml

CLASS_COLUMNS = ("class", "class_name", "label", "category", "category_name", "finding", "finding label",
                 "finding_label")  # fmt: skip
"""Folded names by which the column, or the attribute, of the class is recognized."""

VIA_CLASSES = (*CLASS_COLUMNS, "type", "name")
CLASS_LISTS = ("data.yaml", "classes.txt", "obj.names")
"""Files that name the classes of YOLO's labels."""


@dataclass
class Builder:
    """Collect images and boxes; a box that cannot be used becomes a problem and is counted."""

    problems: ProblemList
    class_name: str = "finding"  # of boxes without a class, if no box has one
    columns: Mapping[str, str] = field(default_factory=dict)  # of a table, by role; "class" names VIA's attribute too
    decimal_comma: bool = False
    root: Path = Path()  # folder from which names next to their annotation file are seen
    where: str = ""  # that file's own name from there, for messages
    class_lists: dict[Path, dict[str, Any]] = field(default_factory=dict)  # of YOLO, by folder: name by number
    read: SourceAnnotations = field(default_factory=SourceAnnotations)
    voc_images: list[SourceImage] = field(default_factory=list)
    from_1: bool = True  # corners of Pascal VOC count pixels from 1
    enclosed: Counter[str] = field(default_factory=Counter)  # shapes that became boxes
    unnamed: list[tuple[SourceImage, dict[str, Any], str]] = field(default_factory=list)  # boxes, and their places
    classes: dict[str, str] = field(default_factory=dict)  # first spelling by folded name

    def image(self, name: Any, where: str | Path, size: Iterable[Any] = (0, 0), image_id: Any = None) -> SourceImage:
        """Start an image, its name relative to ``where`` if that is a path; tools write 0 for an unknown ``size``."""
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"an image has the name {shorten(name)}")
        if isinstance(where, Path):
            name = os.path.relpath(where.parent / name.replace("\\", "/"), self.root).replace(os.sep, "/")
            name, where = re.sub(r"^(\.\./)+", "", name), self.where
        width, height = (int(float(side or 0)) for side in size)
        known = (width, height) if 0 < min(width, height) and max(width, height) <= LARGEST_SIDE else None
        image_id = str(stem(name) if image_id is None else image_id)
        self.read.images.append(SourceImage(name.strip(), image_id, f"{where}: image {name}", known))
        self.read.images_in += 1
        return self.read.images[-1]

    def box(self, image: SourceImage, labels: Any, kind: str, values: Any, degrees: Any = 0, where: str = "") -> bool:
        """Add a box of each class, or of none, for a shape, see :func:`enclose`; tell whether it can be used."""
        where = where or f"{image.where}: box {len(image.boxes) + image.unusable + 1}"
        try:
            bbox, polygon = enclose(kind, values, degrees)
            height, width = (None, None) if image.size in (None, FRACTION) else image.size[::-1]
            problems = [box_problem(bbox), "" if min(bbox[2:]) > 0 else "the box has no area"]
            problems += [text for _, text in segmentation_problems([([polygon], height, width)])] if polygon else []
            problem = next(filter(None, problems), "")
        except ValueError as error:
            problem = short_text(error)
        for label in [labels] if labels and isinstance(labels, str) else list(labels) or [None]:
            self.read.boxes_in += 1
            if labels and not problem and (not isinstance(label, str) or is_empty(label) or fold(label) in NO_FINDING):
                problem = f"class {shorten(label)} with a box; expected the name of a finding"
            if problem:
                self.drop(image, f"{where}: {problem}")
                continue
            self.enclosed["masks" if kind == "mask" else "turned boxes"] += kind == "mask" or float(degrees or 0) != 0
            name = label and self.classes.setdefault(fold(label), label.strip())
            image.boxes.append({"bbox": bbox, "class": name, **({"segmentation": [polygon]} if polygon else {})})
            self.unnamed += [(image, image.boxes[-1], where)] * (not labels)
        return not problem

    def drop(self, image: SourceImage, message: str) -> None:
        """Count an unusable box; ``message`` says where it is and why."""
        self.problems.add(UNUSABLE_BOX, message)
        self.read.dropped[UNUSABLE_BOX] += 1
        image.unusable += 1

    def finish(self) -> SourceAnnotations:
        """Return what was read, once all files are."""
        for box in (box for image in self.voc_images if self.from_1 for box in image.boxes):
            x, y, w, h = box["bbox"]
            box["bbox"] = [x - 1, y - 1, w + 1, h + 1]
        for image, box, where in self.unnamed:
            box["class"] = self.class_name
            if self.classes:
                image.boxes.remove(box)
                self.drop(image, f"{where}: no class, and other boxes have one; name it in the labeling tool")
        self.read.notes += [f"{n} {what} became the boxes that enclose them." for what, n in (+self.enclosed).items()]
        self.read.class_names += sorted(self.classes.values() or {box["class"] for _, box, _ in self.unnamed}, key=fold)
        return self.read


def enclose(kind: str, values: Iterable[Any], degrees: Any = 0) -> tuple[list[float], list[float] | None]:
    """Return the box (XYWH) that encloses a shape turned clockwise about its center, and a polygon's points.

    Args:
        kind: "box" or "mask" (x, y, width, height), "pinned box" (turned about x, y), "centered box" (center, width,
            height), "corners" (two points), "circle" (center, a point on it), "ellipse" (center, radii) or "polygon".
    """
    values = [*values, degrees or 0]
    if kind not in ("box", "pinned box", "centered box", "corners", "circle", "ellipse", "polygon", "mask"):
        raise ValueError(f"{kind} is no box and no polygon")
    try:
        *v, angle = map(float, values)
    except (OverflowError, TypeError, ValueError):
        v, angle = [], math.nan
    if not all(map(math.isfinite, (*v, angle))) or len(v) < 4 or (len(v) > 4 and kind != "polygon"):
        raise ValueError(f"{shorten(values[:-1])}: expected {'a polygon' if kind == 'polygon' else 'four numbers'}")
    if kind == "polygon":
        xs, ys = v[::2], v[1::2]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], v
    x, y, w, h = v
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    if kind in ("circle", "ellipse"):
        w, h = (w, h) if kind == "ellipse" else [math.dist(v[:2], v[2:])] * 2
        w, h = math.hypot(w * cos, h * sin), math.hypot(w * sin, h * cos)
        return [x - w, y - h, 2 * w, 2 * h], None
    if kind == "corners":
        w, h = w - x, h - y
    elif kind == "centered box":
        x, y = x - w / 2, y - h / 2
    if not angle:
        return [x, y, w, h], None
    px, py = (0, 0) if kind == "pinned box" else (w / 2, h / 2)
    ends = [(dx - px, dy - py) for dx in (0, w) for dy in (0, h)]
    turned = (v for dx, dy in ends for v in (x + px + cos * dx - sin * dy, y + py + sin * dx + cos * dy))
    return enclose("polygon", turned)[0], None


def is_class_list(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml") or path.name.lower() in CLASS_LISTS


def read_class_list(path: Path) -> dict[str, Any]:
    """Return number → name of the classes in a data.yaml or classes.txt."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return {str(number): name for number, name in enumerate(read_text(path, SourceDataError).splitlines())}
    data = read_yaml(path, SourceDataError)
    names = data.get("names") if isinstance(data, Mapping) else None
    if not isinstance(names, (Mapping, list)) or "kpt_shape" in data:
        raise SourceDataError(f"{path}: no 'names' of the classes of boxes, as YOLO's data.yaml has")
    return {str(number): name for number, name in (names.items() if isinstance(names, Mapping) else enumerate(names))}


def _yolo(path: Path, text: str, build: Builder) -> None:
    lists = build.class_lists
    near = [lists[folder] for folder in path.parents if folder in lists] or list(lists.values())[: len(lists) == 1]
    if not near:
        raise SourceDataError(f"{path}: which class is 0? Name the data.yaml or classes.txt after the labels")
    # train/labels/a.txt is of train/images/a, labels/train/a.txt of images/train/a
    parts = path.with_suffix("").parts
    depth = max(3, parts[::-1].index("labels") + 2 if "labels" in parts else 0)
    image = build.image("/".join("images" if part == "labels" else part for part in parts[-depth:]), build.where)
    image.size, image.where = FRACTION, build.where
    for number, line in enumerate(text.splitlines(), 1):
        label, *values = line.split() or [""]
        kind = "polygon" if len(values) > 5 else "centered box"  # five are predictions with their scores
        if label:
            build.box(image, [near[0].get(label, [label])], kind, values, where=f"{build.where} line {number}")


def _voc(path: Path, root: Element, build: Builder) -> None:
    """Read corners that count pixels from 1, the last included, unless a box in any of the files contradicts."""
    image = build.image(root.findtext("filename") or path.stem, path, map(root.findtext, ("size/width", "size/height")))
    image.folder = (root.findtext("folder") or "").strip().replace("\\", "/").strip("/")
    build.voc_images.append(image)
    for node in root.iterfind("object"):
        corners = [node.findtext(f"bndbox/{key}", "").strip() for key in ("xmin", "ymin", "xmax", "ymax")]
        usable = build.box(image, [node.findtext("name")], "corners", corners)
        build.from_1 &= not usable or all(value.lstrip("-").isdigit() and value != "0" for value in corners)


def _cvat(path: Path, root: Element, build: Builder) -> None:
    if root.find("track") is not None:
        raise SourceDataError(f"{path}: CVAT for video; export the task as 'CVAT for images 1.1'")
    shapes = {"box": ("corners", "xtl ytl xbr ybr"), "mask": ("mask", "left top width height"),
              "ellipse": ("ellipse", "cx cy rx ry")}  # fmt: skip
    for entry in root.iterfind("image"):
        image = build.image(entry.get("name"), build.where, (entry.get("width"), entry.get("height")), entry.get("id"))
        for node in (node for node in entry if node.tag != "tag"):  # a tag is of the whole image
            kind, keys = shapes.get(node.tag, (node.tag, ""))
            values = [node.get(key) for key in keys.split()] or re.split("[,;]", node.get("points", ""))
            build.box(image, [node.get("label")], kind, values, node.get("rotation"))


def _label_studio(path: Path, tasks: Sequence[Any], build: Builder) -> None:
    """Read percents of the image; a box is turned about its corner, an ellipse about its center."""
    unseen = 0
    for place, task in enumerate(tasks, 1):
        done = [one["result"] for one in task.get("annotations", ()) if not one.get("was_cancelled")]
        if "data" not in task:  # the short form, JSON-MIN
            lists = [value for value in task.values() if isinstance(value, list)]
            done = [[{**v, "value": v} for v in one if isinstance(v, Mapping)] for one in lists] or [[]]
        if not done:  # this does not say that there is no finding
            unseen += 1
            continue
        regions: dict[Any, dict[str, Any]] = {}  # of one id, box and class may be two results
        for number, result in ((number, result) for number, results in enumerate(done) for result in results):
            if {"x", "points", "rle"} & (value := result.get("value", {})).keys():
                region = regions.setdefault((number, result.get("id", len(regions))), {**result, "value": {}})
                region["value"] |= value
        urls = [(key, urlsplit(text)) for key, text in task.get("data", task).items() if isinstance(text, str)]
        files = {k: unquote(u.query[2:] if u.query.startswith("d=") else u.path) for k, u in urls}  # d=: local files
        keys = {"image", *(result.get("to_name") for results in done for result in results)}
        ranks = {file: (file.lower().endswith(IMAGE_SUFFIXES), key in keys, "/" in file, len(files) == 1)
                 for key, file in files.items() if file.strip()}  # fmt: skip
        name = max(ranks, key=ranks.__getitem__, default="")
        if not any(ranks.get(name, ())):
            raise ValueError(f"no image is named by task {task.get('id', f'number {place}')}")
        size = [next(iter(regions.values()), {}).get(f"original_{side}") for side in ("width", "height")]
        image = build.image(name, build.where, size, task.get("id"))
        image.size = image.size or FRACTION
        for region in regions.values():
            value, angle = region["value"], region["value"].get("rotation")
            kind = "polygon" if "points" in value else "ellipse" if "radiusX" in value else "pinned box"
            keys = ("x", "y", "radiusX", "radiusY") if kind == "ellipse" else ("x", "y", "width", "height")
            values = [v for point in value.get("points", ()) for v in point] or [value.get(key) for key in keys]
            if "rle" in value or region.get("image_rotation") or (angle and image.size == FRACTION):
                kind = "brush mask (see --masks), or shape turned in a turned image or one of unknown size,"
            labels = next((v for end in ("labels", "choices") for k, v in value.items() if k.endswith(end) and v), ())
            scaled = [float(v or 0) / 100 * image.size[i % 2] for i, v in enumerate(values)]
            build.box(image, labels, kind, scaled, angle)
    if unseen:
        build.read.notes.append(f"{build.where}: {unseen} tasks are not annotated, or were skipped: left out.")


def _labelme(path: Path, data: Mapping[str, Any], build: Builder) -> None:
    """Read corners in any order, two or four."""
    name = str(data.get("imagePath") or path.stem).replace("\\", "/")
    name = name if os.path.isfile(path.parent / name) else name.rpartition("/")[2]  # the image, or the file, was moved
    image = build.image(name, path, (data.get("imageWidth"), data.get("imageHeight")))
    for shape in data["shapes"]:
        kind, points = shape.get("shape_type") or "polygon", shape["points"]
        if kind in ("rectangle", "mask", "rotation", "oriented_rectangle"):
            first, last = ([end(axis) for axis in zip(*points, strict=True)] for end in (min, max))
            sides = [b - a + (kind == "mask") for a, b in zip(first, last, strict=True)]  # a mask's last pixel is in it
            kind, points = "mask" if kind == "mask" else "box", [first, sides]
        build.box(image, [shape.get("label")], kind, [v for point in points for v in point])


def _via(path: Path, data: Mapping[str, Any], build: Builder) -> None:
    """Read exported annotations or a project; its sizes are those of the files, in bytes."""
    shapes = {"rect": ("box", "x y width height"), "circle": ("ellipse", "cx cy r r"),
              "ellipse": ("ellipse", "cx cy rx ry")}  # fmt: skip
    for entry in data.get("_via_img_metadata", data).values():
        image, regions = build.image(entry.get("filename"), build.where), entry["regions"]
        for region in regions.values() if isinstance(regions, Mapping) else regions:
            drawn, given = region["shape_attributes"], region.get("region_attributes") or {}
            keys = [build.columns.get("class"), *(k for k in given if len(given) == 1 or fold(k) in VIA_CLASSES)]
            label = next((given[key] for key in keys if key in given), None)
            if label is None and given:
                raise SourceDataError(f"{path}: which of the attributes {', '.join(given)} is the class? Name it: "
                                      "--box-columns class=NAME")  # fmt: skip
            labels = [w for w, ticked in label.items() if ticked] if isinstance(label, Mapping) else given and [label]
            kind, keys = shapes.get(drawn["name"], (drawn["name"], ""))
            points = zip(drawn.get("all_points_x", ()), drawn.get("all_points_y", ()), strict=True)
            values = [drawn.get(key) for key in keys.split()] or [v for point in points for v in point]
            build.box(image, labels, kind, values, math.degrees(drawn.get("theta", 0)))


class Reader(NamedTuple):
    """A format: whether a content (root of XML, data of JSON, text, or None) is of it, and how it is read."""

    name: str
    recognizes: Callable[[Any], bool]
    read: Callable[[Path, Any, Builder], None]


READERS = [
    Reader("YOLO", lambda content: isinstance(content, str), _yolo),
    Reader("Pascal VOC", lambda content: isinstance(content, Element) and content.tag == "annotation", _voc),
    Reader("CVAT", lambda content: isinstance(content, Element) and content.tag == "annotations", _cvat),
    Reader("Label Studio", lambda content: isinstance(content, list) and any(
        isinstance(task, Mapping) and {"data", "annotation_id"} & task.keys() for task in content), _label_studio),
    Reader("Labelme", lambda content: isinstance(content, Mapping) and "shapes" in content, _labelme),
    Reader("VIA", lambda content: isinstance(content, Mapping) and ("_via_img_metadata" in content or any(
        isinstance(entry, Mapping) and "regions" in entry for entry in content.values())), _via),
]  # fmt: skip
