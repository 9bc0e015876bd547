"""Sources prepared, and prepared folders read back without the package's own loader."""

import hashlib
import json

from mdf_detectron.data.sources.kit.collection import WriteOptions
from mdf_detectron.data.sources.kit.preparation import prepare
from mdf_detectron.data.sources.mimic.collection import COLLECTION

WRITING = ("image_size", "seed", "folds")


def prepare_mimic(source, out, **choices):
    """Prepare a tree of either layout; ``choices`` are those of the collection, of writing and of ``prepare``."""
    layout = "mimic_eye" if next(source.glob("patient_*"), None) else "physionet"
    options = WriteOptions(**{name: choices.pop(name) for name in WRITING if name in choices})
    return prepare(COLLECTION, out, options, **{layout: source}, **{"num_workers": 1, **choices})


def read_folder(out):
    """Images with their split and annotations, by reading id; class names; report."""
    images, names = {}, []
    for split in ("train", "val", "test"):
        data = json.loads((out / "annotations" / f"{split}.json").read_text())
        names = [c["name"] for c in data["categories"]]
        for image in data["images"]:
            assert image["sha256"] == hashlib.sha256((out / "images" / image["file_name"]).read_bytes()).hexdigest()
            own = [a for a in data["annotations"] if a["image_id"] == image["id"]]
            images[image["reading_id"]] = {**image, "split": split, "annotations": own}
    return images, names, json.loads((out / "report.json").read_text())
