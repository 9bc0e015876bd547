"""The source files of the public covid-chestxray collection: read, checked, and recognized when they change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mdf_detectron.data.prepared_folder import Flow
from mdf_detectron.errors import UserError

METADATA_FILE = "metadata.csv"
ANNOTATION_FILE = "annotations/imageannotation_ai_lung_bounding_boxes.json"
SOURCE = "https://github.com/ieee8023/covid-chestxray-dataset"


class CovidSourceError(UserError, ValueError):
    """A source file that is absent or cannot be read; the message names it and where it comes from."""


def signatures(root: Path) -> dict[str, str]:
    """SHA-256 of the two source files and of the images' names and sizes: another one means other sources.

    Raises:
        CovidSourceError: a source file is absent.
    """
    digests = {}
    for name in (METADATA_FILE, ANNOTATION_FILE):
        if not (root / name).is_file():
            raise CovidSourceError(f"no {root / name}; --root is a copy of {SOURCE}, which has it")
        digests[name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    files = sorted((p.name, p.stat().st_size) for p in (root / "images").glob("*") if p.is_file())
    digests["images"] = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return digests


def read_table(path: Path, columns: Sequence[str], flow: Flow) -> pd.DataFrame:
    """The metadata as text, one row a file name (the first of several, the others counted), indexed by it.

    Args:
        columns: clinical columns that it must have.

    Raises:
        CovidSourceError: not a CSV, or a column is absent.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise CovidSourceError(f"{path}: not a CSV table ({error}); download it again") from None
    absent = sorted({"patientid", "filename", "view", "modality", *columns} - set(table.columns))
    if absent:
        raise CovidSourceError(f"{path}: no column {absent}; it has {list(table.columns)}")
    unique = table.drop_duplicates("filename")
    flow.add("rows of metadata.csv", len(table), len(unique), {"second row of a file": len(table) - len(unique)})
    return unique.set_index("filename")


def read_lung_boxes(path: Path) -> dict[str, Any]:
    """``images`` and ``annotations`` of the COCO file, and ``names`` (category id → name).

    Raises:
        CovidSourceError: not COCO JSON, an id twice, or a file name that leads out of the images folder.
    """
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        names = {c["id"]: c["name"] for c in coco["categories"]}
        files = [(image["id"], image["file_name"]) for image in coco["images"]]
        [annotation["image_id"] for annotation in coco["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CovidSourceError(f"{path}: not COCO detection JSON ({error!r}); download it again") from None
    ids = pd.Series([i for i, _ in files], dtype=object)
    if ids.duplicated().any():
        raise CovidSourceError(f"{path}: image id {ids[ids.duplicated()].iloc[0]!r} occurs twice; ids must be unique")
    for _, name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CovidSourceError(f"{path}: file_name {name!r} leads out of the images folder")
    return {"images": coco["images"], "annotations": coco["annotations"], "names": names}
