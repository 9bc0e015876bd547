"""The leakage audit that every prepared folder passes or fails: what is shared between splits, and what is broken."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mdf_detectron.data.prepared import SPLITS
from mdf_detectron.data.readers import read_radiograph
from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.errors import DatasetError, ImageReadError

TOLERANCE = 0.5
"""Pixels that a box may pass its image's edge by: boxes are written with rounded coordinates."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its kind (what findings are counted by) and what, where."""

    kind: str
    message: str


def audit_folder(root: str | Path, num_workers: int = 2) -> list[Finding]:
    """Everything that is wrong with a prepared folder and the ``fold_*`` folders in it; empty if it passes.

    Patients, images (one file under any name) and byte-identical files must be in one split only; every file must
    decode to the size that is written; boxes must lie in their images; rows must be in the schema; and no clinical
    row may be later than its film (entries with ``study_time`` and ``row_time``).

    Args:
        root: the folder.
        num_workers: threads that read the images.

    Raises:
        DatasetError: no such folder, or not a prepared one.
    """
    root = Path(root)
    if not (root / "annotations").is_dir():
        raise DatasetError(f"{root} has no folder 'annotations'; a prepared folder has, see datasets/README.md")
    contents: dict[Path, tuple[tuple[int, int], str] | str] = {}
    findings = []
    for folder in [root, *sorted(p for p in root.glob("fold_*") if p.is_dir())]:
        prefix = "" if folder == root else f"{folder.name}: "
        findings += [Finding(f.kind, prefix + f.message) for f in _audit_one(folder, contents, num_workers)]
    return findings


def _audit_one(root: Path, contents: dict, num_workers: int) -> Iterator[Finding]:
    splits = {}
    for name in SPLITS:
        path = root / "annotations" / f"{name}.json"
        try:
            splits[name] = json.loads(path.read_text(encoding="utf-8"))
            _require_keys(splits[name])
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Finding("unreadable annotation file", f"{path}: not a COCO file ({error!r})")
            splits.pop(name, None)
    images = [(name, image) for name, data in splits.items() for image in data["images"]]
    _read_files(root, {image["file_name"] for _, image in images}, contents, num_workers)
    yield from _shared(images, "patient", lambda image: str(image.get("patient_id")))
    yield from _shared(images, "image", lambda image: _path(root, image["file_name"]))
    yield from _identical(root, images, contents)
    yield from _files(root, images, contents)
    for data in splits.values():
        yield from _boxes(data)
    yield from _rows(root, images)
    yield from _times(images)


def _require_keys(data: dict[str, Any]) -> None:
    """``KeyError`` or ``TypeError`` where the file lacks what the audit goes by."""
    for entries, keys in (("images", ("id", "file_name", "width", "height")), ("annotations", ("image_id",)),
                          ("categories", ("id",))):  # fmt: skip
        for number, entry in enumerate(data[entries]):
            for key in keys:
                if key not in entry:
                    raise KeyError(f"{entries}[{number}] has no '{key}'")


def _path(root: Path, name: str) -> Path:
    return (root / "images" / name).resolve()


def _read_files(root: Path, names: set[str], contents: dict, num_workers: int) -> None:
    """Path → ((width, height), SHA-256), or what is wrong with it, for the files that were not read yet."""
    paths = sorted({_path(root, name) for name in names} - contents.keys())
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        read = tqdm(pool.map(_read_file, paths), desc="reading images", total=len(paths), unit="image")
        contents.update(zip(paths, read, strict=True))


def _read_file(path: Path) -> tuple[tuple[int, int], str] | str:
    try:
        height, width = read_radiograph(path).shape[:2]
        return (width, height), hashlib.sha256(path.read_bytes()).hexdigest()
    except ImageReadError as error:
        return str(error)


def _splits_by(images, key) -> dict[Hashable, dict[str, list[str]]]:
    found: dict[Hashable, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for split, image in images:
        found[key(image)][split].append(image["file_name"])
    return found


def _where(splits: dict[str, list[str]]) -> str:
    return "; ".join(f"{split} ({', '.join(sorted(set(names))[:3])})" for split, names in splits.items())


def _shared(images, what: str, key) -> Iterator[Finding]:
    for value, splits in _splits_by(images, key).items():
        if len(splits) > 1:
            name = value.name if isinstance(value, Path) else value
            yield Finding(f"{what} in several splits", f"{what} {name} is in {_where(splits)}")


def _identical(root: Path, images, contents: dict) -> Iterator[Finding]:
    """Files of different names with the same bytes, in different splits."""
    by_digest: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    paths: dict[str, set[Path]] = defaultdict(set)
    for split, image in images:
        path = _path(root, image["file_name"])
        if not isinstance(contents[path], str):
            by_digest[contents[path][1]][split].append(image["file_name"])
            paths[contents[path][1]].add(path)
    for digest, splits in by_digest.items():
        if len(splits) > 1 and len(paths[digest]) > 1:
            yield Finding("byte-identical files in several splits", f"the same bytes are in {_where(splits)}")


def _files(root: Path, images, contents: dict) -> Iterator[Finding]:
    for split, image in images:
        content = contents[_path(root, image["file_name"])]
        if isinstance(content, str):
            yield Finding("unreadable image", f"{split}: {content}")
        elif content[0] != (image.get("width"), image.get("height")):
            written = f"{image.get('width')} × {image.get('height')}"
            found = f"{content[0][0]} × {content[0][1]}"
            message = f"{split}: {image['file_name']} has {found} pixels, {written} are written"
            yield Finding("image of another size", message)


def _boxes(data: dict[str, Any]) -> Iterator[Finding]:
    images, categories = {i["id"]: i for i in data["images"]}, {c["id"] for c in data["categories"]}
    for annotation in data["annotations"]:
        image, box = images.get(annotation["image_id"]), annotation.get("bbox")
        where = f"annotation {annotation.get('id')}"
        if image is None or annotation.get("category_id") not in categories:
            yield Finding("annotation of nothing", f"{where}: image {annotation['image_id']} or category "
                                                   f"{annotation.get('category_id')} is not in the file")  # fmt: skip
            continue
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)
        if not numbers or not all(map(math.isfinite, box)) or min(box[2:]) <= 0 or not _inside(box, image):
            size = f"{image['width']} × {image['height']}"
            yield Finding("box outside its image", f"{where}: box {box} of {image['file_name']} ({size} pixels)")


def _inside(box: list[float], image: dict[str, Any]) -> bool:
    x, y, w, h = box
    return min(x, y) >= -TOLERANCE and x + w <= image["width"] + TOLERANCE and y + h <= image["height"] + TOLERANCE


def _rows(root: Path, images) -> Iterator[Finding]:
    try:
        schema = ClinicalSchema.load(root / SCHEMA_FILE_NAME)
    except DatasetError as error:
        yield Finding("no usable schema", str(error))
        return
    for split, image in images:
        try:
            schema.parse_row(image.get("clinical"), where=f"{split}: image {image['file_name']}")
        except DatasetError as error:
            yield Finding("row outside the schema", str(error))


def _times(images) -> Iterator[Finding]:
    for split, image in images:
        study, row = image.get("study_time"), image.get("row_time")
        try:
            late = study and row and datetime.fromisoformat(study) < datetime.fromisoformat(row)
        except (TypeError, ValueError):
            yield Finding("unreadable time", f"{split}: {image['file_name']}: study_time {study}, row_time {row}")
            continue
        if late:
            message = f"{split}: {image['file_name']} of {study} has a clinical row of {row}"
            yield Finding("film dated before its clinical row", message)
