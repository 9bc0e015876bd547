"""Read and validate annotation JSON; training, audit and evaluation all use this reader.

A file is COCO detection JSON: ``images``, ``annotations`` and ``categories``. In a prepared folder (``prepared=True``)
each image also needs ``file_name`` (below ``images/``), ``width``, ``height`` and ``patient_id``, and may have the
file's ``sha256``. Whole floats become integers; patient ids are normalized by
:func:`~mdf_detectron.data.splits.patient_key`. This module imports no torch.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from mdf_detectron.data.masks import segmentation_problems
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.splits import patient_key
from mdf_detectron.errors import DatasetError, shorten
from mdf_detectron.fileio import read_json

LARGEST_SIDE = 100_000
"""Pixels; DICOM allows 65,535."""

LARGEST_COORDINATE = 1_000_000
"""Pixels; far outside any image, yet exact in single precision."""

Entry = dict[str, Any]
Report = Callable[[str, str], None]
"""Receives a problem's kind (for counting) and message; may raise, or return to continue."""


@dataclass(frozen=True)
class Annotations:
    """The valid entries of an annotation file.

    Attributes:
        images: in file order; ``clinical`` is parsed if a schema was given.
        annotations: in file order; ``segmentation`` is absent or valid, ``iscrowd`` absent, 0 or 1.
        categories: sorted by id, the order of a model's classes.
        digest: SHA-256 of the file; empty if there was no file.
    """

    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]
    digest: str = ""

    @property
    def class_names(self) -> list[str]:
        return [category["name"] for category in self.categories]

    @property
    def class_of(self) -> dict[int | str, str]:
        """Map category ids to class names."""
        return {category["id"]: category["name"] for category in self.categories}


def read_annotations(
    path: str | Path, *, prepared: bool, schema: ClinicalSchema | None = None, report: Report | None = None
) -> Annotations:
    """Read and validate an annotation file; see :func:`check_annotations`."""
    digest = hashlib.sha256()
    data = read_json(path, DatasetError, nan=True, digest=digest)
    found = check_annotations(data, str(path), prepared=prepared, schema=schema, report=report)
    return replace(found, digest=digest.hexdigest())


def check_annotations(
    data: Any, where: str, *, prepared: bool, schema: ClinicalSchema | None = None, report: Report | None = None
) -> Annotations:
    """Validate the content of an annotation file.

    Args:
        data: parsed JSON; not modified.
        where: file name for messages.
        prepared: require the keys of a prepared folder, not only what scoring needs.
        schema: parse every ``clinical`` record with it.
        report: called for every problem, whose entry is then left out. By default the first problem is raised.

    Raises:
        DatasetError: not COCO JSON, or (without ``report``) the first problem.
    """
    lists = data if isinstance(data, Mapping) else {}
    for part in ("images", "annotations", "categories"):
        if not isinstance(lists.get(part), (list, tuple)):
            raise DatasetError(
                f"{where}: no '{part}' list; expected COCO detection JSON, an object with the lists images, "
                "annotations and categories"
            )
    checker = _Checker(where, prepared, schema, report or _raise)
    categories = checker.entries(data["categories"], "categories", checker.category)
    categories = checker.distinct(categories, "categories", ("id", "name"))
    images = checker.distinct(checker.entries(data["images"], "images", checker.image), "images", ("id",))
    checker.records(images)
    annotations = checker.annotations(data["annotations"], images, categories)
    return Annotations(images, annotations, sorted(categories, key=lambda c: c["id"]))


def _raise(kind: str, message: str) -> None:
    raise DatasetError(message)


class _Problem(Exception):
    """A problem of one entry: (kind, text)."""


class _Checker:
    def __init__(self, where: str, prepared: bool, schema: ClinicalSchema | None, report: Report) -> None:
        self.where, self.prepared, self.schema, self.report = where, prepared, schema, report
        self.left_out: set[Any] = set()  # (part, id) of bad entries; references to them are no new problem

    def entries(self, entries: Sequence[Any], part: str, check: Callable[[Entry], Entry]) -> list[Entry]:
        """Return the valid entries, normalized; report the others."""
        kept = []
        for number, entry in enumerate(entries):
            try:
                if not isinstance(entry, Mapping):
                    raise _Problem(f"unusable entry of {part}", f"expected an object, got {shorten(entry)}")
                kept.append(check(entry))
            except _Problem as problem:
                if part != "annotations" and isinstance(entry, Mapping) and isinstance(entry.get("id"), (int, str)):
                    self.left_out.add((part, entry["id"]))
                elif isinstance(entry, Mapping) and self._refers_to_left_out(entry):
                    continue
                self.say(problem.args[0], part, number, entry, problem.args[1])
        return kept

    def _refers_to_left_out(self, annotation: Entry) -> bool:
        references = (("images", annotation.get("image_id")), ("categories", annotation.get("category_id")))
        return any(isinstance(r[1], (int, str)) and r in self.left_out for r in references)

    def say(self, kind: str, part: str, number: int, entry: Any, text: str) -> None:
        """Report a problem of one entry with the ids and names that locate it."""
        names = {}
        if isinstance(entry, Mapping):
            keys = ("id", "image_id") if part == "annotations" else ("id", "file_name", "name")
            names = {key: entry[key] for key in keys if entry.get(key) not in (None, "")}
        named = ", ".join(f"{key} {shorten(value, 60)}" for key, value in names.items())
        self.report(kind, f"{self.where}: {part}[{number}]{f' ({named})' if named else ''}: {text}")

    def distinct(self, entries: list[Entry], part: str, keys: Sequence[str]) -> list[Entry]:
        """Drop entries with a repeated id or name, or an id of another type than the first one's."""
        for key in keys:
            seen: dict[Any, Any] = {}
            kept = []
            for number, entry in enumerate(entries):
                value = entry[key]
                first = next(iter(seen), value)
                if type(value) is not type(first):
                    text = f"{_kind(value)}, the first {key} is {_kind(first)}; use one kind in the whole file"
                    self.say(f"mixed ids of {part}", part, number, entry, text)
                elif value in seen:
                    one = {"images": "image", "categories": "category", "annotations": "annotation"}[part]
                    text = f"two {part} have the {key} {shorten(value)}; give each {one} its own"
                    self.say(f"doubled {key} of {part}", part, number, entry, text)
                    if key == "name":
                        self.left_out.add((part, entry["id"]))
                else:
                    seen[value] = None
                    kept.append(entry)
            entries = kept
        return entries

    def category(self, entry: Entry) -> Entry:
        kind = "unusable category"
        number = _id(entry, "id", kind)
        name = entry.get("name")
        if name is None and not self.prepared:
            name = str(number)
        if not isinstance(name, str) or not name.strip():
            raise _Problem(kind, f"name {shorten(name)}; expected a text")
        return {**entry, "id": number, "name": name.strip()}

    def image(self, entry: Entry) -> Entry:
        kind = "unusable image entry"
        needed = ("file_name", "width", "height", "patient_id") if self.prepared else ()
        absent = [key for key in ("id", *needed) if entry.get(key) in (None, "")]
        if absent:
            raise _Problem(kind, f"no {', '.join(absent)}; every image needs {', '.join(('id', *needed))}")
        out = {**entry, "id": _id(entry, "id", kind)}
        if self.prepared:
            _check_file_name(entry["file_name"])
        for key in ("width", "height"):
            if entry.get(key) is not None:
                out[key] = _whole(entry[key])
                if type(out[key]) is not int or not 0 < out[key] <= LARGEST_SIDE:
                    expected = f"expected a whole number of pixels from 1 to {LARGEST_SIDE}"
                    raise _Problem(kind, f"{key} {shorten(entry[key])}; {expected}")
        try:
            out["patient_id"] = patient_key(entry.get("patient_id"))
        except TypeError as error:
            raise _Problem("no patient", f"patient_id {shorten(entry['patient_id'])}: {error}") from None
        if self.prepared and out["patient_id"] is None:
            text = (
                f"patient_id {shorten(entry['patient_id'])} is no patient; write the patient's id, or remove the image"
            )
            raise _Problem("no patient", text)
        if self.prepared and entry.get("sha256") is not None and not _is_digest(entry["sha256"]):
            raise _Problem(kind, f"sha256 {shorten(entry['sha256'])}; expected 64 hexadecimal digits, or no sha256")
        if not isinstance(entry.get("clinical"), (Mapping, type(None))):
            text = f"clinical {shorten(entry['clinical'])}; expected an object {{column: value}} or null"
            raise _Problem("value outside the schema", text)
        return out

    def records(self, images: list[Entry]) -> None:
        """Parse the clinical records; keep images with a bad record, so that an audit still compares them."""
        if self.schema is None:
            return
        for number, image in enumerate(images):
            try:
                image["clinical"] = self.schema.parse_record(image.get("clinical"), where="clinical record")
            except DatasetError as error:
                self.say("value outside the schema", "images", number, image, str(error))

    def annotations(self, entries: Sequence[Any], images: list[Entry], categories: list[Entry]) -> list[Entry]:
        """Return the valid annotations; check entry by entry only if the fast check fails."""
        by_id = {image["id"]: image for image in images}
        class_ids = {category["id"] for category in categories}
        numbers = range(len(entries))
        if _all_plain(entries, by_id, class_ids, distinct_ids=self.prepared):
            kept = list(entries)
        else:
            kept = self.entries(entries, "annotations", lambda entry: _annotation(entry, by_id, class_ids))
            kept = self._distinct_annotations(kept) if self.prepared else kept
            numbers = range(len(kept))
        with_mask = [i for i in numbers if kept[i].get("segmentation") not in (None, [], {})]
        masks = [(kept[i]["segmentation"], *_size(by_id[kept[i]["image_id"]])) for i in with_mask]
        bad = {with_mask[at]: text for at, text in segmentation_problems(masks)}
        if bad or len(with_mask) < len(kept):  # an empty mask counts as none
            for i in sorted(bad):
                self.say("unusable mask", "annotations", i, kept[i], f"segmentation: {bad[i]}")
            masked = set(with_mask)
            kept = [kept[i] if i in masked else _without_mask(kept[i]) for i in numbers if i not in bad]
        return kept

    def _distinct_annotations(self, kept: list[Entry]) -> list[Entry]:
        named = self.distinct([entry for entry in kept if "id" in entry], "annotations", ("id",))
        sound = set(map(id, named))
        return [entry for entry in kept if "id" not in entry or id(entry) in sound]


def _without_mask(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if key != "segmentation"} if "segmentation" in entry else entry


def _size(image: Entry) -> tuple[int | None, int | None]:
    return image.get("height"), image.get("width")


def _annotation(entry: Entry, images: Mapping[Any, Entry], class_ids: set[Any]) -> Entry:
    kind = "unusable annotation"
    absent = [key for key in ("image_id", "category_id", "bbox") if entry.get(key) in (None, "")]
    if absent:
        raise _Problem(kind, f"no {', '.join(absent)}; every annotation needs image_id, category_id and bbox")
    out = {**entry}
    if entry.get("id") is None:
        out.pop("id", None)
    else:
        out["id"] = _id(entry, "id", kind)
    for key, known in (("image_id", images), ("category_id", class_ids)):
        out[key] = _id(entry, key, "annotation of nothing")
        if out[key] not in known:
            raise _Problem("annotation of nothing", unknown_reference(key, out[key], known))
    problem = box_problem(entry["bbox"])
    if problem:
        raise _Problem("unusable box", problem)
    x, y, w, h = entry["bbox"]
    if w <= 0 or h <= 0:
        raise _Problem("unusable box", f"bbox {shorten(entry['bbox'])} has no area; remove it, or correct its size")
    height, width = _size(images[out["image_id"]])
    if (width and (x >= width or x + w <= 0)) or (height and (y >= height or y + h <= 0)):
        text = f"bbox {shorten(entry['bbox'])} lies outside the {width} × {height} image (width × height)"
        raise _Problem("box outside its image", text)
    if "iscrowd" in entry:
        out["iscrowd"] = _whole(entry["iscrowd"])
        if type(out["iscrowd"]) is not int or out["iscrowd"] not in (0, 1):
            raise _Problem(kind, f"iscrowd {shorten(entry['iscrowd'])}; write 0 or 1, as a number")
    if entry.get("area") is None:
        out.pop("area", None)
    elif not _is_number(entry["area"]) or entry["area"] < 0:
        raise _Problem(kind, f"area {shorten(entry['area'])}; expected a number of pixels from 0 on, or no area")
    return out


def _all_plain(entries: Sequence[Any], images: Mapping[Any, Entry], class_ids: set[Any], *, distinct_ids: bool) -> bool:
    """Check fast, by whole columns, that :func:`_annotation` would return every entry unchanged."""
    try:
        image_ids, categories = [e["image_id"] for e in entries], [e["category_id"] for e in entries]
        ids, crowds = [e.get("id", i) for i, e in enumerate(entries)], [e.get("iscrowd", 0) for e in entries]
        boxes, areas = [e["bbox"] for e in entries], [e.get("area", 0) for e in entries]
        references_known = set(image_ids) <= images.keys() and set(categories) <= class_ids
        ids_sound = not distinct_ids or len(set(ids)) == len(ids)
        four = set(map(type, boxes)) <= {list, tuple} and set(map(len, boxes)) <= {4}
        coordinates = list(chain.from_iterable(boxes)) if four else []
    except (KeyError, TypeError, AttributeError):
        return False
    one_kind = all(set(map(type, v)) in ({int}, {str}, set()) for v in (image_ids, categories, ids))
    numbers = set(map(type, chain(coordinates, areas))) <= {int, float}
    crowd_plain = set(map(type, crowds)) <= {int} and set(crowds) <= {0, 1}
    if not (references_known and ids_sound and four and one_kind and numbers and crowd_plain):
        return False
    try:
        box = np.array(coordinates, dtype=np.float64).reshape(-1, 4)
        area = np.array(areas, dtype=np.float64)
    except OverflowError:  # an integer too large for a float
        return False
    sizes = {key: (v.get("width") or math.inf, v.get("height") or math.inf) for key, v in images.items()}
    size = np.array([sizes[i] for i in image_ids], dtype=np.float64).reshape(-1, 2)
    low, high = box[:, :2], box[:, :2] + box[:, 2:]
    near = (np.abs(box) <= LARGEST_COORDINATE).all() and (box[:, 2:] > 0).all()
    return bool(near and (low < size).all() and (high > 0).all() and np.isfinite(area).all() and (area >= 0).all())


def unknown_reference(key: str, value: Any, known: Any) -> str:
    """Describe an id that a file lacks, and whether only its type (text or number) differs."""
    part = {"image_id": "images", "category_id": "categories"}[key]
    first = next(iter(known), None)
    text = f"{key} {shorten(value)} is not among the {part}"
    if first is not None and isinstance(value, str) != isinstance(first, str):
        kinds = ("text", "numbers") if isinstance(value, str) else ("a number", "text")
        return f"{text}: it is {kinds[0]}, their ids are {kinds[1]} ({shorten(first, 30)}, …); write both the same way"
    return f"{text} of the annotations"


def box_problem(box: Any) -> str:
    """Describe what is wrong with an XYWH box of any origin; empty if it is four valid numbers."""
    if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4:
        return f"bbox {shorten(box)} is not [x, y, width, height]"
    if not all(isinstance(v, np.number) or _is_real(v) for v in box):
        return f"bbox {shorten(list(box))} holds something that is not a number"
    if not all(_is_number(v) for v in box):
        return f"bbox {shorten(list(box))} is not finite"
    if max(abs(v) for v in box) > LARGEST_COORDINATE:
        return f"bbox {shorten(list(box))} is not of pixels: a coordinate is beyond {LARGEST_COORDINATE:,}"
    if box[2] < 0 or box[3] < 0:
        return f"bbox {shorten(list(box))} has a negative size; expected [x, y, width, height]"
    return ""


def _check_file_name(name: Any) -> None:
    kind = "unusable image entry"
    if not isinstance(name, str) or not name.strip() or "\0" in name or name != name.encode(errors="ignore").decode():
        raise _Problem(kind, f"file_name {shorten(name)}; expected a path below images/, as text")
    windows = PureWindowsPath(name)
    if not PurePosixPath(name).parts:
        raise _Problem(kind, f"file_name {shorten(name)} names the folder; expected a path below images/")
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise _Problem(kind, f"file_name {shorten(name)} leads out of the folder; expected a path below images/")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _id(entry: Entry, key: str, kind: str) -> int | str:
    value = _whole(entry.get(key))
    if type(value) is int or (isinstance(value, str) and value.strip()):
        return value
    raise _Problem(kind, f"{key} {shorten(value)}; expected a whole number or a text")


def _whole(value: Any) -> Any:
    """Convert a whole float or NumPy integer to int; return anything else unchanged."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return int(value) if isinstance(value, np.integer) else value


def _kind(value: Any) -> str:
    return f"text ({shorten(value, 30)})" if isinstance(value, str) else f"a number ({shorten(value, 30)})"


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    try:
        return (_is_real(value) or isinstance(value, np.number)) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False
