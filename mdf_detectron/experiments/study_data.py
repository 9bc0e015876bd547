"""Read and check the prepared folder of a study, and choose the config keys that follow from it."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdf_detectron.config_file import read_config_file
from mdf_detectron.data.annotations import Annotations
from mdf_detectron.data.catalog import load_schema, read_prepared, read_report, register_prepared_folder
from mdf_detectron.data.prepared import SPLITS
from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.errors import DatasetError
from mdf_detectron.evaluation.power import patients_with_boxes
from mdf_detectron.fileio import find_config_file, sha256_of

OWN_SPLITS = -1
"""Fold number that means the folder's own splits."""


@dataclass(frozen=True)
class StudyData:
    """The contents of a prepared folder.

    Attributes:
        root: absolute path.
        name: folder name; the registered data set names begin with it.
        splits: fold (or :data:`OWN_SPLITS`) → split → annotations.
        fingerprint: SHA-256 over the digests of the schema and the annotation files.
        synthetic: whether the folder's report says that the data are synthetic.
        arguments: with which the folder was prepared, by its report.
    """

    root: Path
    name: str
    schema: ClinicalSchema
    splits: Mapping[int, Mapping[str, Annotations]]
    fingerprint: str
    synthetic: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def dataset_names(self, fold: int) -> dict[str, str]:
        """Map each split to its registered data set name."""
        prefix = self.name if fold == OWN_SPLITS else f"{self.name}_fold_{fold}"
        return {split: f"{prefix}_{split}" for split in SPLITS}

    @property
    def class_names(self) -> list[str]:
        return next(iter(self.splits.values()))["train"].class_names

    @property
    def patients_to_test(self) -> int:
        """Patients with a box in all splits, which folds would test; 0 if there are folds."""
        return 0 if set(self.splits) != {OWN_SPLITS} else patients_with_boxes(self.splits[OWN_SPLITS].values())

    @property
    def has_masks(self) -> bool:
        """Whether every box of the train and validation splits, except crowd boxes, has a mask."""
        boxes = [a for splits in self.splits.values() for s in ("train", "val") for a in splits[s].annotations]
        return all("segmentation" in box for box in boxes if not box.get("iscrowd"))


def open_study_data(dataset: str, folds: Sequence[int] | str) -> StudyData:
    """Read, check and register the prepared folder of a plan.

    Args:
        dataset: path of the folder, or its name in ``$DETECTRON2_DATASETS`` (default ``datasets``).
        folds: fold numbers, "all", or "available"; empty for the folder's own splits.

    Raises:
        DatasetError: a fold is missing, a split has no image, validation has no box, or train or test lacks a class.
    """
    root = _find(dataset)
    present = sorted(int(p.name[5:]) for p in root.glob("fold_*") if p.name[5:].isdigit())
    wanted = tuple(present if isinstance(folds, str) else folds)
    if folds == "all" and not present or set(wanted) - set(present):
        has = f"it has {present}" if present else "it has none"
        raise DatasetError(f"{root}: fold(s) {list(wanted) or 'all'} are asked for, {has}; prepare it with --folds N")
    schema = load_schema(root / SCHEMA_FILE_NAME)
    digests, splits = [sha256_of(root / SCHEMA_FILE_NAME)], {}
    for fold in wanted or (OWN_SPLITS,):
        folder = root if fold == OWN_SPLITS else root / f"fold_{fold}"
        splits[fold] = {}
        for split in SPLITS:
            file = folder / "annotations" / f"{split}.json"
            if not file.is_file():
                raise DatasetError(f"{folder} has no {split} split ({file} is absent); a study needs all three")
            splits[fold][split] = read_prepared(file, folder / SCHEMA_FILE_NAME)
            digests.append(splits[fold][split].digest)
        _check_splits(folder, splits[fold])
        register_prepared_folder(folder, root.name if fold == OWN_SPLITS else f"{root.name}_fold_{fold}")
    fingerprint = hashlib.sha256(" ".join(digests).encode()).hexdigest()
    report = read_report(root)
    made = report.get("arguments") or {}
    return StudyData(root, root.name, schema, splits, fingerprint, bool(report.get("synthetic")), made)


def _find(dataset: str) -> Path:
    base = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for path in (Path(dataset), base / dataset):
        if (path / "annotations").is_dir():
            return path.resolve()
    raise DatasetError(
        f"no prepared folder at '{dataset}' or '{base / dataset}'; prepare the data (`mdf prepare`), or name the "
        "folder with --dataset"
    )


def _check_splits(folder: Path, splits: Mapping[str, Annotations]) -> None:
    for split, found in splits.items():
        if not found.images:
            what = "validation split (it chooses the checkpoint)" if split == "val" else f"image in its {split} split"
            raise DatasetError(f"{folder} has no {what}; prepare it with all three splits")
        if split == "val" and not found.annotations:
            raise DatasetError(f"{folder}: no box in the validation split, so it cannot choose a checkpoint")
        if split == "val":
            continue
        there = {annotation["category_id"] for annotation in found.annotations if not annotation.get("iscrowd")}
        absent = [category["name"] for category in found.categories if category["id"] not in there]
        if absent:
            fewer = "use fewer folds" if folder.name.startswith("fold_") else "prepare more images"
            raise DatasetError(
                f"{folder}: no image of class '{absent[0]}' in the {split} split, so its AP cannot be "
                f"{'learned' if split == 'train' else 'measured'}; {fewer}, or leave the class out"
            )


def overrides_of_data(data: StudyData, config: str, columns: Sequence[str] | None) -> dict[str, Any]:
    """Return the config keys and values that follow from the data: number of classes, masks, clinical columns.

    Args:
        columns: clinical columns to read; None keeps those of the config if the data have all of them, otherwise takes
            all columns of the data.
    """
    count = len(data.class_names)
    found: dict[str, Any] = {"MODEL.ROI_HEADS.NUM_CLASSES": count, "MODEL.RETINANET.NUM_CLASSES": count}
    if not data.has_masks:
        found["MODEL.MASK_ON"] = False
    known = data.schema.names
    if columns is None:
        clinical = (read_config_file(find_config_file(config)).get("MODEL") or {}).get("CLINICAL") or {}
        own = [*(clinical.get("NUMERIC") or []), *(clinical.get("CATEGORICAL") or [])]
        if own and set(own) <= set(known):
            return found
        columns = known
    if absent := [name for name in columns if name not in known]:
        raise DatasetError(f"{data.root} has no clinical column '{absent[0]}'; it has {', '.join(known)}")
    kind = {column.name: column.kind for column in data.schema.columns}
    for key, wanted in (("NUMERIC", "numeric"), ("CATEGORICAL", "categorical")):
        found[f"MODEL.CLINICAL.{key}"] = [name for name in columns if kind[name] == wanted]
    found["MODEL.CLINICAL.VOCABULARIES"] = []
    return found
