"""Audit a prepared folder: find what splits share, what is broken, and what could not be checked."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mdf_detectron.child_processes import thread_map
from mdf_detectron.data.annotations import Annotations, read_annotations
from mdf_detectron.data.intensity import pixel_digest
from mdf_detectron.data.prepared import PATIENTS_KNOWN, REPORT_FILE_NAME, SPLITS, check_prepared
from mdf_detectron.data.readers import OpenImage
from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.data.splits import look_alike
from mdf_detectron.data.times import is_later, parse_time
from mdf_detectron.errors import DatasetError, ImageReadError, shorten
from mdf_detectron.fileio import read_json

TOLERANCE = 0.5
"""Pixels by which a box may cross the image edge; box coordinates are rounded."""

Image = dict[str, Any]
Contents = dict[Path, "tuple[tuple[int, int], str, str] | str"]
"""File → ((width, height), SHA-256, digest of the pixels), or an error message."""


@dataclass(frozen=True)
class Problem:
    """One problem: its kind (for counting), and a message that says what and where."""

    kind: str
    message: str


@dataclass
class Audit:
    """The result of an audit; a folder without problems passes.

    Attributes:
        unchecked: what the audit could not check and why, one line each.
    """

    problems: list[Problem] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def audit_folder(root: str | Path, num_workers: int = 2) -> Audit:
    """Audit a prepared folder and the ``fold_*`` folders in it.

    Each patient, image (one file under any name) and set of equal pixels must be in one split only, and all splits must
    have the same classes. Every file must match its recorded digest and size. Entries must pass
    :mod:`~mdf_detectron.data.annotations`, boxes must lie in their images and values in the schema. No clinical record
    may be later than its image (entries with ``study_time`` and ``row_time``). ``num_workers`` threads read the images.
    """
    root = check_prepared(root)
    contents: Contents = {}
    audit = Audit()
    for folder in [root, *sorted(p for p in root.glob("fold_*") if p.is_dir())]:
        prefix = "" if folder == root else f"{folder.name}: "
        one = _FolderAudit(folder, contents, num_workers).run()
        audit.problems += [Problem(p.kind, prefix + p.message) for p in one.problems]
        audit.unchecked += [prefix + text for text in one.unchecked]
    return audit


class _FolderAudit:
    """Audit one folder without its subfolders; ``contents`` is shared by all folders, so each file is read once."""

    def __init__(self, root: Path, contents: Contents, num_workers: int) -> None:
        self.root, self.contents, self.num_workers = root, contents, num_workers
        self.audit = Audit()
        self.paths: dict[str, Path] = {}

    def run(self) -> Audit:
        splits = self._read_splits()
        images = [(split, image) for split, one in splits.items() for image in one.images]
        self._read_images({image["file_name"] for _, image in images})
        found = (
            _classes(splits),
            _shared(images, "patient", lambda image: image["patient_id"]),
            _look_alikes(images),
            _shared(images, "image", lambda image: self.paths[image["file_name"]]),
            self._identical(images),
            self._files(images),
            *(_boxes(split, one) for split, one in splits.items()),
            _times(images),
        )
        self.audit.problems += chain.from_iterable(found)
        self._name_unknown(images)
        return self.audit

    def _name_unknown(self, images: list[tuple[str, Image]]) -> None:
        """Note the checks that lack patients, digests or times."""
        report = self.root / REPORT_FILE_NAME
        known = not report.is_file() or read_json(report, DatasetError).get(PATIENTS_KNOWN, True)
        patients = {image["patient_id"] for _, image in images}
        if not known:
            self._unchecked("whether a patient's images are in several splits: the sources do not tell whose they are, "
                            "each image counts as a patient")  # fmt: skip
        elif len(patients) == len(images) > 1:
            self._unchecked("whether a patient's images are in several splits, if ids are made up: each image has a "
                            "patient_id of its own")  # fmt: skip
        for keys, what in ((("sha256",), "whether image files are as they were prepared"),
                           (("study_time", "row_time"), "whether records are later than their images")):  # fmt: skip
            without = sum(not all(image.get(key) for key in keys) for _, image in images)
            if without:
                which = "no image has" if without == len(images) else f"{without} of {len(images)} images lack"
                self._unchecked(f"{what}: {which} {' and '.join(keys)}")
        self._unchecked("whether two files of other pixels show one image, compressed or resized; mdf describe lists "
                        "those that look alike")  # fmt: skip

    def _unchecked(self, text: str) -> None:
        self.audit.unchecked.append(text)

    def _report(self, kind: str, message: str) -> None:
        self.audit.problems.append(Problem(kind, message))

    def _read_splits(self) -> dict[str, Annotations]:
        try:
            schema = ClinicalSchema.load(self.root / SCHEMA_FILE_NAME)
        except DatasetError as error:
            schema = None
            self._report("no usable schema", str(error))
            self._unchecked("the values of the clinical records: there is no usable schema")
        splits = {}
        for name in SPLITS:
            path = self.root / "annotations" / f"{name}.json"
            try:
                splits[name] = read_annotations(path, prepared=True, schema=schema, report=self._report)
            except DatasetError as error:
                self._report("unreadable annotation file", str(error))
                self._unchecked(f"anything about split {name}, or what it shares with others: see its file's problem")
                continue
            if not splits[name].annotations:
                what = "annotation" if splits[name].images else "image"
                self._unchecked(f"split {name} has no {what}: nothing to check there, and its metrics are undefined")
        return splits

    def _read_images(self, names: set[str]) -> None:
        self.paths = {name: (self.root / "images" / name).resolve() for name in names}
        paths = sorted(set(self.paths.values()) - self.contents.keys())
        read = thread_map(_read_file, paths, self.num_workers)
        progress = tqdm(read, desc="reading images", total=len(paths), unit="image")
        self.contents.update(zip(paths, progress, strict=True))

    def _content(self, image: Image) -> tuple[tuple[int, int], str, str] | str:
        return self.contents[self.paths[image["file_name"]]]

    def _identical(self, images: list[tuple[str, Image]]) -> Iterator[Problem]:
        readable = [(split, image) for split, image in images if not isinstance(self._content(image), str)]
        for splits in _splits_by(readable, lambda image: self._content(image)[2]).values():
            if len(splits) > 1 and len({self.paths[name] for names in splits.values() for name in names}) > 1:
                yield Problem("equal pixels in several splits", f"the same pixels are in {_where(splits)}")

    def _files(self, images: list[tuple[str, Image]]) -> Iterator[Problem]:
        """Find files that are unreadable, differ from their recorded size, or changed since preparation."""
        unread = 0
        for split, image in images:
            content, named = self._content(image), f"{split}: {image['file_name']}"
            if isinstance(content, str):
                unread += 1
                yield Problem("unreadable image", f"{split}: {content}")
                continue
            size, digest, _ = content
            if size != (image["width"], image["height"]):
                found, written = (f"{w} × {h}" for w, h in (size, (image["width"], image["height"])))
                message = f"{named} has {found} pixels, {written} are written (width × height)"
                yield Problem("image of another size", message)
            if image.get("sha256") not in (None, digest):
                message = f"{named} is not the file that was prepared, its SHA-256 is another"
                yield Problem("image that was changed", f"{message}; restore it, or prepare the folder again")
        if unread:
            self._unchecked(f"the sizes of {unread} images, and whether they equal others: unreadable")


def _read_file(path: Path) -> tuple[tuple[int, int], str, str] | str:
    try:
        with OpenImage(path) as image:
            pixels = image.decode()[0]
            return pixels.shape[1::-1], image.sha256, pixel_digest(pixels)
    except ImageReadError as error:
        return str(error)


def _classes(splits: dict[str, Annotations]) -> Iterator[Problem]:
    """Find splits whose classes differ from the first split's: class numbers would mean different things."""
    first, *others = splits or ("",)
    for name in others:
        if splits[name].class_names != splits[first].class_names:
            lists = " and ".join(f"{split} has {shorten(splits[split].class_names, 200)}" for split in (first, name))
            yield Problem("classes differ between splits", f"{lists}; write the same categories in the same order")


def _splits_by(images: list[tuple[str, Image]], key) -> dict[Hashable, dict[str, list[str]]]:
    found: dict[Hashable, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for split, image in images:
        found[key(image)][split].append(image["file_name"])
    return found


def _where(splits: dict[str, list[str]]) -> str:
    return "; ".join(f"{split} ({', '.join(sorted(set(names))[:3])})" for split, names in splits.items())


def _shared(images: list[tuple[str, Image]], what: str, key) -> Iterator[Problem]:
    for value, splits in _splits_by(images, key).items():
        if len(splits) > 1:
            name = value.name if isinstance(value, Path) else value
            yield Problem(f"{what} in several splits", f"{what} {shorten(str(name))[1:-1]} is in {_where(splits)}")


def _look_alikes(images: list[tuple[str, Image]]) -> Iterator[Problem]:
    """Find patient ids in different splits that differ only in letter case, leading zeros or punctuation."""
    spellings: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for split, image in images:
        spellings[look_alike(image["patient_id"])][image["patient_id"]].add(split)
    for by_id in spellings.values():
        if len(by_id) > 1 and len(set().union(*by_id.values())) > 1:
            named = "; ".join(f"{shorten(key)} ({', '.join(sorted(splits))})" for key, splits in by_id.items())
            yield Problem("patients that may be one", f"{named}; spell one patient's id in one way, or rename others")


def _boxes(split: str, annotations: Annotations) -> Iterator[Problem]:
    images = {image["id"]: image for image in annotations.images}
    for annotation in annotations.annotations:
        (x, y, w, h), image = annotation["bbox"], images[annotation["image_id"]]
        over = max(-x, -y, x + w - image["width"], y + h - image["height"])
        if over > TOLERANCE:
            size = f"{image['width']} × {image['height']} pixels"
            what = f"bbox {shorten(annotation['bbox'])} of {image['file_name']} ({size}) passes its edge by {over:g}"
            yield Problem("box outside its image", f"{split}: annotation {annotation.get('id')}: {what}")


def _times(images: list[tuple[str, Image]]) -> Iterator[Problem]:
    for split, image in images:
        study, record = image.get("study_time"), image.get("row_time")
        if not (study and record):
            continue
        image_time, record_time = parse_time(study), parse_time(record)
        late = is_later(record_time, image_time) if image_time and record_time else None
        if late is None:
            times = (
                f"study_time {shorten(study)}, row_time {shorten(record)}; expected ISO 8601, a zone in both or none"
            )
            yield Problem("unreadable time", f"{split}: {image['file_name']}: {times}")
        elif late:
            message = f"{split}: {image['file_name']} of {study} has a clinical record of {record}"
            yield Problem("image older than its clinical record", message)
