"""Prepared dataset folders in Detectron2's catalogs.

Importing :mod:`mdf_detectron` registers ``<name>_{train,val,test}`` for the known folder names, and for every
prepared folder, below ``$DETECTRON2_DATASETS`` (default ``./datasets``).  Nothing is read until a dataset is asked
for, so neither an absent nor a broken folder disturbs an import; a dataset's classes are in its metadata once it has
been loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from mdf_detectron.data.prepared import SPLITS, _read_json, _records
from mdf_detectron.data.schema import SCHEMA_FILE_NAME
from mdf_detectron.errors import DatasetError

PREPARE_HINTS = {
    "synthetic_cxr": "run: python datasets/prepare_synthetic.py --out {root} --num-patients 700 --seed 1 --signal 1.0",
    "covid_cxr": "run: python datasets/prepare_covid_chestxray.py --root COVID_CHESTXRAY_ROOT --out {root}",
    "mimic_eye": "get PhysioNet's files (credentialed access) and run: python datasets/prepare_mimic_eye.py "
    "--physionet ROOT --out {root}",
}
"""Known folder names, and how each is made."""


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
            raise DatasetError(_how_to_prepare(self.name, self.root, self.json_file))
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
