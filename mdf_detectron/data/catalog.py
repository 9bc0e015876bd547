"""Register prepared folders in Detectron2's catalogs, and read their records.

The commands call :func:`register_all`; importing registers nothing. A dataset is read when it is first requested, and
its classes are in its metadata after that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pycocotools.mask as mask_utils
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from mdf_detectron.data.annotations import Annotations, read_annotations
from mdf_detectron.data.readers import check_size, read_size
from mdf_detectron.data.schema import REPORT_FILE_NAME, SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.data.sources import COLLECTIONS
from mdf_detectron.data.splits import SPLITS
from mdf_detectron.errors import DatasetError, ImageReadError
from mdf_detectron.fileio import file_stamp, read_json, sha256_of

if TYPE_CHECKING:
    from mdf_detectron.data.sources.kit.collection import Collection

_Read = TypeVar("_Read")


def dataset_schema(name: str) -> ClinicalSchema | None:
    """Return the schema of a dataset ("mimic_eye_train"): from its prepared folder, else its collection, else None."""
    file = MetadataCatalog.get(name).get("clinical_schema_file") if name in DatasetCatalog.list() else None
    if file is not None and Path(file).is_file():
        return load_schema(file)
    collection = _collection_of(name)
    return collection.schema if collection else None


def _collection_of(name: str) -> Collection | None:
    known = COLLECTIONS.folders().get(name.rsplit("_", 1)[0])
    return COLLECTIONS[known] if known else None


def register_all() -> None:
    """Register ``<name>_{train,val,test}`` for known collections and prepared folders in ``$DETECTRON2_DATASETS``.

    The default folder is ``./datasets``. Cross-validation folders (``fold_0`` …) become
    ``<name>_fold_0_{train,val,test}``.
    """
    base = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    prepared = {path.parent.name for path in base.glob(f"*/{SCHEMA_FILE_NAME}")}
    for name in sorted(prepared | COLLECTIONS.folders().keys()):
        _register_if_new(base / name, name)
        for fold in sorted((base / name).glob("fold_*")):
            _register_if_new(fold, f"{name}_{fold.name}")


def _register_if_new(root: Path, prefix: str) -> None:
    if f"{prefix}_train" not in DatasetCatalog.list():
        register_prepared_folder(root, prefix)


def register_prepared_folder(root: str | Path, prefix: str) -> None:
    """Register ``<prefix>_{train,val,test}`` for a prepared folder, replacing an earlier registration.

    Args:
        root: need not exist until a dataset is loaded.
        prefix: by convention the folder's name.
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
    def __init__(self, name: str, root: Path, json_file: Path):
        self.name, self.root, self.json_file = name, root, json_file

    def __call__(self) -> list[dict[str, Any]]:
        annotations = self.annotations()
        MetadataCatalog.get(self.name).set(
            thing_classes=annotations.class_names,
            thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(annotations.categories)},
        )
        return dataset_dicts(annotations, self.root / "images")

    def annotations(self) -> Annotations:
        if not self.json_file.is_file():
            raise DatasetError(_how_to_prepare(self.name, self.root, self.json_file))
        return read_prepared(self.json_file, self.root / SCHEMA_FILE_NAME)


def dataset_annotations(name: str) -> Annotations | None:
    """Return the annotations of a registered prepared split; None for a dataset registered by other means."""
    loader = DatasetCatalog[name] if name in DatasetCatalog.list() else None
    return loader.annotations() if isinstance(loader, _Loader) else None


def _once(read: Callable[..., _Read]) -> Callable[..., _Read]:
    """Cache a reader's result while its files are unchanged; callers must not modify the result."""
    kept = lru_cache(maxsize=8)(lambda stamps, *files: read(*files))
    return wraps(read)(lambda *files: kept(tuple(map(file_stamp, files)), *map(Path, files)))


@_once
def load_schema(file: Path) -> ClinicalSchema:
    """Read a schema file; cached while it is unchanged."""
    schema = ClinicalSchema.load(file)
    _warn_if_changed(file.parent, file, sha256_of(file))
    return schema


@_once
def read_prepared(json_file: Path, schema_file: Path) -> Annotations:
    """Read a split's annotation file; cached while it and the schema are unchanged."""
    annotations = read_annotations(json_file, prepared=True, schema=load_schema(schema_file))
    _warn_if_changed(json_file.parents[1], json_file, annotations.digest)
    return annotations


def dataset_dicts(annotations: Annotations, image_root: str | Path) -> list[dict[str, Any]]:
    """Build the Detectron2 dataset dicts of one split, healthy images included.

    Returns:
        dicts with file_name (absolute), image_id, height, width, annotations (bbox XYWH_ABS, category_id from 0,
        iscrowd and, if there is a mask, segmentation: polygons or compressed RLE), and this project's ``patient_id``
        (str), ``sha256`` (of the file, None if unknown) and ``clinical`` ({column: parsed value}, see
        :mod:`~mdf_detectron.data.schema`). Boxes and masks are shared with ``annotations``: replace, never modify them.
    """
    contiguous = {category["id"]: i for i, category in enumerate(annotations.categories)}
    of_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in annotations.images}
    for annotation in annotations.annotations:
        of_image[annotation["image_id"]].append(_annotation_record(annotation, contiguous))
    folder = os.path.abspath(image_root)
    return [
        {
            "file_name": os.path.join(folder, image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "patient_id": image["patient_id"],
            "sha256": image.get("sha256"),
            "clinical": dict(image["clinical"]),
            "annotations": of_image[image["id"]],
        }
        for image in annotations.images
    ]


def _annotation_record(annotation: dict[str, Any], contiguous: dict[Any, int]) -> dict[str, Any]:
    record = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "iscrowd": annotation.get("iscrowd", 0),
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):  # Detectron2 decodes compressed RLE
        segmentation = mask_utils.frPyObjects(segmentation, *segmentation["size"])
    return {**record, "segmentation": segmentation} if segmentation else record


_SIZES_CHECKED = 64


def check_images(records: list[dict[str, Any]]) -> None:
    """Check that all image files exist, and the sizes of a sample; the mapper checks every size.

    Raises:
        ImageReadError: files are missing, or a sampled header is unreadable.
        DatasetError: an image size differs from its record.
    """
    absent = [r["file_name"] for r in records if not os.path.isfile(r["file_name"])]
    if absent:
        raise ImageReadError(
            f"{len(absent)} of {len(records)} image files are absent, the first is {absent[0]}; "
            "prepare the data set again (mdf prepare)"
        )
    for record in records[:: 1 + len(records) // _SIZES_CHECKED]:
        check_size(record, read_size(record["file_name"]))


def check_not_empty(records: list[dict[str, Any]], name: str) -> None:
    if not records:
        raise DatasetError(
            f"dataset '{name}' has no image; prepare it with one at least, or leave it out: DATASETS.TRAIN, .VAL and "
            ".TEST name what is used"
        )


def check_masks(records: list[dict[str, Any]], name: str) -> None:
    """Raise :class:`~mdf_detectron.errors.DatasetError` if an annotation used in training has no mask."""
    wanted = [(r["file_name"], a) for r in records for a in r["annotations"] if not a["iscrowd"]]
    without = [file_name for file_name, a in wanted if "segmentation" not in a]
    if without:
        raise DatasetError(
            f"dataset '{name}': {len(without)} of {len(wanted)} annotations have no mask (segmentation), the first in "
            f"{os.path.basename(without[0])}; set MODEL.MASK_ON False to train on boxes only, or add the masks"
        )


def _how_to_prepare(name: str, root: Path, json_file: Path) -> str:
    collection = _collection_of(name)
    command = f"mdf prepare {collection.name} {collection.example}" if collection else "mdf prepare own …"
    return f"dataset '{name}': no {json_file}; to prepare it, run: {command} --out {root}"


def read_report(root: Path) -> dict[str, Any]:
    """Read the report of a prepared folder; empty if there is none."""
    path = root / REPORT_FILE_NAME
    report = read_json(path, DatasetError) if path.is_file() else {}
    return report if isinstance(report, dict) else {}


def _warn_if_changed(root: Path, path: Path, digest: str) -> None:
    """Warn if a file's SHA-256 differs from its folder's report; pass without a report."""
    digests = read_report(root).get("sha256")
    if (digests or {}).get(path.relative_to(root).as_posix(), digest) != digest:
        logging.getLogger(__name__).warning(
            "%s has been changed since its folder was prepared: if nobody did so, prepare it again", path
        )
