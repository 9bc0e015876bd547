"""The prepared folder that the tests make, and what makes a training on it small enough for a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema

CLASSES = ("bright", "dark")
SCHEMA = ClinicalSchema(
    (
        ClinicalColumn("age", "numeric", "years", 0, 120),
        ClinicalColumn("temperature", "numeric", "°F", 80, 113),
        ClinicalColumn("gender", "categorical", vocabulary=("F", "M")),
    )
)
DATA = ["MODEL.CLINICAL.NUMERIC", ["age", "temperature"], "MODEL.ROI_HEADS.NUM_CLASSES", 2]
SMALL = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, *DATA, "INPUT.IMAGE_SIZE", 64,
         "SOLVER.STEPS", ()]  # fmt: skip


def datasets(name: str, *splits: str) -> list[Any]:
    """Return the options that name the data sets of a folder, without ``splits`` of all three."""
    return [v for s in splits or ("train", "val", "test") for v in (f"DATASETS.{s.upper()}", (f"{name}_{s}",))]


def words(*options: Any) -> list[str]:
    """Return options as they are typed."""
    return [str(one) for one in options]


def edit(folder: Path, splits: str | tuple[str, ...], change: Callable[[dict], Any]) -> None:
    """Change the annotation files of a prepared folder."""
    for split in [splits] if isinstance(splits, str) else splits:
        path = folder / "annotations" / f"{split}.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
