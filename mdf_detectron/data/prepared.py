"""Writing a prepared dataset folder: the one format that everything downstream reads.

::

    <root>/annotations/{train,val,test}.json   COCO detection JSON; images also have "patient_id" and "clinical"
    <root>/images/...
    <root>/clinical_schema.yaml
    <root>/report.json, report.md

A folder appears whole or not at all: it is written beside its final place and moved there at the end.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.errors import DatasetError, ImageReadError
from mdf_detectron.fileio import markdown_table

SPLITS = ("train", "val", "test")


REPORT_FILE_NAME = "report.json"


@dataclass
class PreparedImage:
    """One record before it has an id.

    Attributes:
        file_name: path below ``<root>/images``.
        width, height: pixels of that file.
        patient_id: what no two splits may share.
        clinical: column → raw value or None.
        annotations: dicts with ``bbox`` (x, y, w, h in pixels, absolute), ``category_id`` (from 1) and,
            for masks, ``segmentation`` (COCO polygons or RLE); ``area`` defaults to the box's.
        extra: further keys of the image's JSON entry (``study_id``, ``reading_id``…).
    """

    file_name: str
    width: int
    height: int
    patient_id: str
    clinical: dict[str, Any]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Flow:
    """Accounts for every input: ``in = kept + Σ dropped`` at each stage, or the preparation stops."""

    stages: list[dict[str, Any]] = field(default_factory=list)

    def add(self, stage: str, total: int, kept: int, dropped: Mapping[str, int] | None = None) -> None:
        """Record one stage; raises ``AssertionError`` if inputs are unaccounted for."""
        dropped = {reason: int(n) for reason, n in (dropped or {}).items() if n}
        if total != kept + sum(dropped.values()):
            raise AssertionError(f"stage '{stage}': {total} in, but {kept} kept + {dropped} dropped")
        self.stages.append({"stage": stage, "in": int(total), "kept": int(kept), "dropped": dropped})


@contextmanager
def staged_folder(out: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out`` that replaces ``out`` when the block ends without an error.

    Refuses (``DatasetError``) to replace a folder that is not a prepared dataset, so that a mistyped
    ``--out`` cannot delete anything else.
    """
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / REPORT_FILE_NAME).is_file())):
        raise DatasetError(f"{out} exists and is not a prepared dataset folder; name another --out or remove it")
    staging, old = out.with_name(out.name + ".partial"), out.with_name(out.name + ".old")
    if old.exists() and not out.exists():
        old.rename(out)  # an earlier run was killed between the two moves below
    for leftover in (staging, old):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if out.exists():
        out.rename(old)
    try:
        staging.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_annotations(
    folder: Path,
    splits: Mapping[str, Sequence[PreparedImage]],
    class_names: Sequence[str],
    schema: ClinicalSchema,
    description: str,
) -> None:
    """Write ``annotations/*.json`` and the schema; every row is checked against the schema on the way."""
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
    (folder / "annotations").mkdir(exist_ok=True)
    image_id = annotation_id = 0
    for split in SPLITS:
        images, annotations = [], []
        for record in splits.get(split, ()):
            image_id += 1
            schema.parse_row(record.clinical, where=f"{split}: image {record.file_name}")
            images.append(
                {
                    "id": image_id,
                    "file_name": record.file_name,
                    "width": int(record.width),
                    "height": int(record.height),
                    "patient_id": str(record.patient_id),
                    "clinical": {name: record.clinical.get(name) for name in schema.names},
                    **record.extra,
                }
            )
            for annotation in record.annotations:
                annotation_id += 1
                box_area = float(annotation["bbox"][2] * annotation["bbox"][3])
                annotations.append(
                    {"id": annotation_id, "image_id": image_id, "iscrowd": 0, "area": box_area, **annotation}
                )
        data = {
            "info": {"description": description},
            "categories": categories,
            "images": images,
            "annotations": annotations,
        }
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
    schema.save(folder / SCHEMA_FILE_NAME)


def summarize_splits(
    splits: Mapping[str, Sequence[PreparedImage]], class_names: Sequence[str], schema: ClinicalSchema
) -> dict[str, dict[str, Any]]:
    """Counts a split: patients, images, healthy images, boxes a class, missing values a column."""
    summary = {}
    for split, records in splits.items():
        boxes = [a["category_id"] for r in records for a in r.annotations]
        summary[split] = {
            "patients": len({r.patient_id for r in records}),
            "images": len(records),
            "images_without_boxes": sum(not r.annotations for r in records),
            "boxes": {name: boxes.count(i) for i, name in enumerate(class_names, start=1)},
            "missing": {n: sum(r.clinical.get(n) is None for r in records) for n in schema.names},
        }
    return summary


def write_report(folder: Path, title: str, arguments: Mapping[str, Any], flow: Flow, body: Mapping[str, Any]) -> None:
    """Write ``report.json`` and the same as ``report.md`` (tables of the flow and of the splits)."""
    report = {"title": title, "arguments": dict(arguments), "flow": flow.stages, **body}
    text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
    (folder / REPORT_FILE_NAME).write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(_report_markdown(report), encoding="utf-8")


def is_up_to_date(out: str | Path, arguments: Mapping[str, Any]) -> bool:
    """Whether ``out`` is a whole prepared folder made with just these arguments."""
    report = Path(out) / REPORT_FILE_NAME
    if not report.is_file():
        return False
    wanted = json.loads(json.dumps(dict(arguments)))
    return json.loads(report.read_text(encoding="utf-8")).get("arguments") == wanted


def _report_markdown(report: Mapping[str, Any]) -> str:
    parts = [f"# {report['title']}\n"]
    parts += [f"{note}\n" for note in report.get("notes", ())]
    rows = [
        (s["stage"], s["in"], s["kept"], "; ".join(f"{k}: {v}" for k, v in s["dropped"].items()) or "none")
        for s in report["flow"]
    ]
    parts += ["## What came in and what was kept\n", markdown_table(("stage", "in", "kept", "dropped"), rows)]
    for key, heading in (("boxes", "Boxes per class"), ("missing", "Missing values per column")):
        splits = report.get("splits", {})
        if splits:
            names = list(next(iter(splits.values()))[key])
            table = [(n, *(s[key][n] for s in splits.values())) for n in names]
            if key == "boxes":
                counts = ("patients", "images", "images_without_boxes")
                table = [(c, *(s[c] for s in splits.values())) for c in counts] + table
            parts += [f"## {heading}\n", markdown_table(("", *splits), table)]
    return "\n".join(parts)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON ({error}); prepare the dataset again") from None
    lists = data if isinstance(data, dict) else {}
    absent = [key for key in ("images", "annotations", "categories") if not isinstance(lists.get(key), list)]
    if absent:
        raise DatasetError(f"{path}: expected COCO detection JSON, but it has no list {absent}")
    return data


def load_records(json_file: str | Path, image_root: str | Path, schema_file: str | Path) -> list[dict[str, Any]]:
    """Detectron2 dataset dicts of one split, healthy images included.

    Returns:
        dicts with file_name (absolute), image_id, height, width, annotations (bbox XYWH_ABS, category_id from 0),
        and besides Detectron2's keys ``patient_id`` (str) and ``clinical`` ({column: raw value or None}).

    Raises:
        DatasetError: no schema, a row that it does not allow, keys that are absent, ids that do not match, or boxes
            without area in their image.
    """
    path = Path(json_file)
    return _records(_read_json(path), path, Path(image_root), Path(schema_file))


def _records(data: dict[str, Any], path: Path, image_root: Path, schema_file: Path) -> list[dict[str, Any]]:
    schema = ClinicalSchema.load(schema_file)
    for kind, key in (("category", "categories"), ("image", "images"), ("annotation", "annotations")):
        _check_keys(data[key], kind, path)
    contiguous = {c["id"]: i for i, c in enumerate(sorted(data["categories"], key=lambda c: c["id"]))}
    if len(contiguous) != len(data["categories"]):
        raise DatasetError(f"{path}: two categories have the same id")
    images = {image["id"]: image for image in data["images"]}
    if len(images) != len(data["images"]):
        raise DatasetError(f"{path}: two images have the same id")
    for image in images.values():
        _check_size(image, path)
    annotations: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    for annotation in data["annotations"]:
        _check_annotation(annotation, images, contiguous, path)
        annotations[annotation["image_id"]].append(_annotation_record(annotation, contiguous))
    folder = os.path.abspath(image_root)
    return [_image_record(image, annotations[image["id"]], schema, folder, path) for image in data["images"]]


_REQUIRED_KEYS = {
    "category": ("id", "name"),
    "image": ("id", "file_name", "width", "height", "patient_id"),
    "annotation": ("image_id", "category_id", "bbox"),
}


def _check_keys(entries: list[Any], kind: str, path: Path) -> None:
    for number, entry in enumerate(entries):
        absent = [k for k in _REQUIRED_KEYS[kind] if not isinstance(entry, dict) or entry.get(k) in (None, "")]
        if absent:
            name = (entry.get("file_name") or entry.get("id")) if isinstance(entry, dict) else None
            raise DatasetError(f"{path}: {kind} {number if name is None else name} has no {', '.join(absent)}")


def _check_size(image: dict[str, Any], path: Path) -> None:
    size = (image["width"], image["height"])
    if not all(map(_is_number, size)) or min(size) <= 0:
        raise DatasetError(f"{path}: image {image['file_name']}: {size} is not a width and height in pixels")


def _image_record(
    image: dict[str, Any], annotations: list[dict[str, Any]], schema: ClinicalSchema, folder: str, path: Path
) -> dict[str, Any]:
    schema.parse_row(image.get("clinical"), where=f"{path}: image {image['file_name']}")
    return {
        "file_name": os.path.join(folder, image["file_name"]),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
        "patient_id": str(image["patient_id"]),
        "clinical": dict(image.get("clinical") or {}),
        "annotations": annotations,
    }


def _check_annotation(
    annotation: dict[str, Any], images: dict[Any, dict[str, Any]], categories: dict[Any, int], path: Path
) -> None:
    where = f"{path}: annotation {annotation.get('id')}"
    if annotation["image_id"] not in images:
        raise DatasetError(f"{where}: image_id {annotation['image_id']} is not among the images")
    if annotation["category_id"] not in categories:
        raise DatasetError(f"{where}: category_id {annotation['category_id']} is not among the categories")
    image, box = images[annotation["image_id"]], annotation["bbox"]
    where += f" of image {image['file_name']}"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or not (box[2] > 0 and box[3] > 0):
        raise DatasetError(f"{where}: bbox {box} is not [x, y, width, height] with positive size")
    if box[0] >= image["width"] or box[1] >= image["height"] or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
        raise DatasetError(f"{where}: bbox {box} lies outside the {image['width']} × {image['height']} image")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _annotation_record(annotation: dict[str, Any], contiguous: dict[Any, int]) -> dict[str, Any]:
    record = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "iscrowd": annotation.get("iscrowd", 0),
    }
    if annotation.get("segmentation"):
        record["segmentation"] = annotation["segmentation"]
    return record


def check_images(records: list[dict[str, Any]]) -> None:
    """Raise :class:`~mdf_detectron.errors.ImageReadError` if a record's file is absent (all are counted)."""
    absent = [r["file_name"] for r in records if not os.path.isfile(r["file_name"])]
    if absent:
        raise ImageReadError(
            f"{len(absent)} of {len(records)} image files are absent, the first is {absent[0]}; "
            "prepare the dataset again, see datasets/README.md"
        )
