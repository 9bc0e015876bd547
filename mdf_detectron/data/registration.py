"""Prepared dataset folders in Detectron2's catalogs.

Importing :mod:`mdf_detectron` registers ``<name>_{train,val,test}`` for the known folder names, and for every
prepared folder, below ``$DETECTRON2_DATASETS`` (default ``./datasets``).  Nothing is read until a dataset is asked
for, so neither an absent nor a broken folder disturbs an import; a dataset's classes are in its metadata once it has
been loaded.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from mdf_detectron.data.clinical_schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.data.prepared_folder import SPLITS
from mdf_detectron.errors import ImageReadError, UserError

PREPARE_HINTS = {
    "synthetic_cxr": "run: python datasets/prepare_synthetic.py --out {root} --num-patients 700 --seed 1 --signal 1.0",
    "covid_cxr": "run: python datasets/prepare_covid_chestxray.py --root COVID_CHESTXRAY_ROOT --out {root}",
    "mimic_eye": "get PhysioNet's files (credentialed access) and run: python datasets/prepare_mimic_eye.py "
    "--physionet ROOT --out {root}",
}
"""Known folder names, and how each is made."""


class DatasetNotPreparedError(UserError, FileNotFoundError):
    """A registered dataset whose folder is not there; the message says how to make it."""


class DatasetFormatError(UserError, ValueError):
    """A prepared folder whose annotation file does not hold together."""


def register_all(root: str | Path | None = None) -> None:
    """Register the known names and every prepared folder below ``root``.

    By default that is ``$DETECTRON2_DATASETS``, or ``datasets``.

    Cross-validation folders in them (``fold_0`` …) become ``<name>_fold_0_{train,val,test}``.
    """
    base = Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    prepared = {path.parent.name for path in base.glob(f"*/{SCHEMA_FILE_NAME}")}
    for name in sorted(prepared | PREPARE_HINTS.keys()):
        register_prepared_folder(base / name, name)
        for fold in sorted((base / name).glob("fold_*")):
            register_prepared_folder(fold, f"{name}_{fold.name}")


def register_prepared_folder(root: str | Path, prefix: str) -> None:
    """Register ``<prefix>_{train,val,test}`` for a prepared folder; again, the same or another root, replaces it.

    Args:
        root: the folder; it need not exist before a dataset is loaded.
        prefix: first part of the registered names, by convention the folder's name.
    """
    root = Path(root)
    for split in SPLITS:
        name = f"{prefix}_{split}"
        json_file = root / "annotations" / f"{split}.json"
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, _Loader(name, root, json_file))
        metadata = MetadataCatalog.get(name)
        metadata.set(
            dataset_root=str(root),
            json_file=str(json_file),
            image_root=str(root / "images"),
            clinical_schema_file=str(root / SCHEMA_FILE_NAME),
            evaluator_type="cxr",
        )


class _Loader:
    """Reads one split when Detectron2 asks for it."""

    def __init__(self, name: str, root: Path, json_file: Path):
        self.name, self.root, self.json_file = name, root, json_file

    def __call__(self) -> list[dict[str, Any]]:
        if not self.json_file.is_file():
            raise DatasetNotPreparedError(_how_to_prepare(self.name, self.root, self.json_file))
        data = _read_json(self.json_file)
        records = _records(data, self.json_file, self.root / "images", self.root / SCHEMA_FILE_NAME)
        _set_classes(self.name, data["categories"])
        return records


def _how_to_prepare(name: str, root: Path, json_file: Path) -> str:
    hint = PREPARE_HINTS.get(name.rsplit("_", 1)[0], "write a prepared folder to {root}").format(root=root)
    return f"dataset '{name}': no {json_file}; to prepare it, {hint} (see datasets/README.md)"


def _set_classes(name: str, categories: list[dict[str, Any]]) -> None:
    ordered = sorted(categories, key=lambda c: c["id"])
    MetadataCatalog.get(name).set(
        thing_classes=[c["name"] for c in ordered],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(ordered)},
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetFormatError(f"{path}: not valid JSON ({error}); prepare the dataset again") from None
    lists = data if isinstance(data, dict) else {}
    absent = [key for key in ("images", "annotations", "categories") if not isinstance(lists.get(key), list)]
    if absent:
        raise DatasetFormatError(f"{path}: expected COCO detection JSON, but it has no list {absent}")
    return data


def load_records(json_file: str | Path, image_root: str | Path, schema_file: str | Path) -> list[dict[str, Any]]:
    """Detectron2 dataset dicts of one split, healthy images included.

    Returns:
        dicts with file_name (absolute), image_id, height, width, annotations (bbox XYWH_ABS, category_id from 0),
        and besides Detectron2's keys ``patient_id`` (str) and ``clinical`` ({column: raw value or None}).

    Raises:
        ClinicalSchemaError, ClinicalValueError: no schema, or a row that it does not allow.
        DatasetFormatError: keys that are absent, ids that do not match, or boxes without area in their image.
    """
    path = Path(json_file)
    return _records(_read_json(path), path, Path(image_root), Path(schema_file))


def _records(data: dict[str, Any], path: Path, image_root: Path, schema_file: Path) -> list[dict[str, Any]]:
    schema = ClinicalSchema.load(schema_file)
    for kind, key in (("category", "categories"), ("image", "images"), ("annotation", "annotations")):
        _check_keys(data[key], kind, path)
    contiguous = {c["id"]: i for i, c in enumerate(sorted(data["categories"], key=lambda c: c["id"]))}
    if len(contiguous) != len(data["categories"]):
        raise DatasetFormatError(f"{path}: two categories have the same id")
    images = {image["id"]: image for image in data["images"]}
    if len(images) != len(data["images"]):
        raise DatasetFormatError(f"{path}: two images have the same id")
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
            raise DatasetFormatError(f"{path}: {kind} {number if name is None else name} has no {', '.join(absent)}")


def _check_size(image: dict[str, Any], path: Path) -> None:
    size = (image["width"], image["height"])
    if not all(map(_is_number, size)) or min(size) <= 0:
        raise DatasetFormatError(f"{path}: image {image['file_name']}: {size} is not a width and height in pixels")


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
        raise DatasetFormatError(f"{where}: image_id {annotation['image_id']} is not among the images")
    if annotation["category_id"] not in categories:
        raise DatasetFormatError(f"{where}: category_id {annotation['category_id']} is not among the categories")
    image, box = images[annotation["image_id"]], annotation["bbox"]
    where += f" of image {image['file_name']}"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or not (box[2] > 0 and box[3] > 0):
        raise DatasetFormatError(f"{where}: bbox {box} is not [x, y, width, height] with positive size")
    if box[0] >= image["width"] or box[1] >= image["height"] or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
        raise DatasetFormatError(f"{where}: bbox {box} lies outside the {image['width']} × {image['height']} image")


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
