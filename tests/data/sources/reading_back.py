"""MIMIC's sources prepared, and prepared folders read back without the package's own loader."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mdf_detectron.data.sources.kit.collection import WriteOptions
from mdf_detectron.data.sources.kit.preparation import prepare
from mdf_detectron.data.sources.mimic.collection import COLLECTION


def read_prepared(out: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Read entries by file name (MIMIC's by reading), with ``split`` and ``boxes``, with ``class``; the report."""
    images = {}
    for split in ("train", "val", "test"):
        data = json.loads((out / "annotations" / f"{split}.json").read_text())
        names = {c["id"]: c["name"] for c in data["categories"]}
        for image in data["images"]:
            assert image["sha256"] == hashlib.sha256((out / "images" / image["file_name"]).read_bytes()).hexdigest()
            own = [{**a, "class": names[a["category_id"]]} for a in data["annotations"] if a["image_id"] == image["id"]]
            images[image.get("reading_id", image["file_name"])] = {**image, "split": split, "boxes": own}
    return images, json.loads((out / "report.json").read_text())


WRITING = ("image_size", "seed", "folds", "splits", "allow_shared_patients")


def prepare_mimic(source, out, **choices):
    """Prepare a tree of either layout; ``choices`` are those of the collection, of writing and of ``prepare``."""
    layout = "mimic_eye" if next(source.glob("patient_*"), None) else "physionet"
    options = WriteOptions(**{name: choices.pop(name) for name in WRITING if name in choices})
    return prepare(COLLECTION, out, options, **{layout: source}, **{"num_workers": 1, **choices})
