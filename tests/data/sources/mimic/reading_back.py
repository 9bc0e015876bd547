"""Prepared folders read back without the package's own loader."""

import hashlib
import json


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
