"""What the tests of the collections read back of a prepared folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdf_detectron.data.prepared import SPLITS


@dataclass
class Prepared:
    """A prepared folder.

    Attributes:
        images: file stem → its entry, with ``split`` and ``boxes``: (class, bbox) pairs.
        flow: stage → its account.
        report: ``report.json``.
    """

    images: dict[str, dict[str, Any]]
    flow: dict[str, dict[str, Any]]
    report: dict[str, Any]

    def boxes(self) -> list[tuple[str, list[float]]]:
        return [box for image in self.images.values() for box in image["boxes"]]

    def values(self, column: str) -> dict[str, Any]:
        return {name: image["clinical"][column] for name, image in self.images.items()}


def read_prepared(folder: Path) -> Prepared:
    images = {}
    for split in SPLITS:
        data = json.loads((folder / "annotations" / f"{split}.json").read_text())
        names = {c["id"]: c["name"] for c in data["categories"]}
        for image in data["images"]:
            assert image["sha256"] == hashlib.sha256((folder / "images" / image["file_name"]).read_bytes()).hexdigest()
            boxes = [(names[a["category_id"]], a["bbox"]) for a in data["annotations"] if a["image_id"] == image["id"]]
            images[Path(image["file_name"]).stem] = {**image, "split": split, "boxes": boxes}
    report = json.loads((folder / "report.json").read_text())
    return Prepared(images, {stage["stage"]: stage for stage in report["flow"]}, report)
