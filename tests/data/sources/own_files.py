"""A newcomer's folder: 40 images, half of them DICOM, a COCO export and a messy table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from dicom_files import radiograph, save
from PIL import Image

CLASSES = ("opacity", "nodule")
HEADER = "File;MRN;Age;Sex;Lactate;Smoker;Ward;Taken;Drawn"


def write_images(folder: Path, count: int = 40) -> list[dict]:
    """Write ``count`` images of 96×80; even ones are DICOM of 12 bits. Returns the COCO images' boxes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    entries = []
    for number in range(count):
        pixels = rng.integers(1200, 1400, (80, 96)).astype(np.uint16)
        boxes = []
        if number % 4:
            label = number % 2
            x, y, w, h = 8 + number % 7, 10, 40, 36
            pixels[y : y + h, x : x + w] = 3000 if label else 500
            boxes = [(x, y, w, h, label)]
        if number % 2 == 0:
            sex = "FM"[number % 3 % 2]
            tags = {"PatientID": f"P{number // 2}", "PatientAge": f"{30 + number:03d}Y", "PatientSex": sex,
                    "AccessionNumber": f"ACC{number}", "StudyDate": "20200102", "StudyTime": "101500.123"}  # fmt: skip
            name = f"scan_{number:02d}.dcm"
            save(radiograph(pixels, WindowCenter=2048, WindowWidth=4096, **tags), folder / name)
        else:
            name = f"scan_{number:02d}.png"
            Image.fromarray((pixels // 16).astype(np.uint8)).save(folder / name)
        entries.append({"name": name, "boxes": boxes})
    return entries


def write_coco(path: Path, entries: list[dict], **changes) -> Path:
    """Write the COCO JSON of a labeling tool, ids from 0, masks absent."""
    images, annotations = [], []
    for number, entry in enumerate(entries):
        images.append({"id": number, "file_name": entry["name"], "width": 96, "height": 80})
        for x, y, w, h, label in entry["boxes"]:
            annotations.append({"id": len(annotations), "image_id": number, "category_id": label, "bbox": [x, y, w, h],
                                "segmentation": [], "area": w * h, "iscrowd": 0})  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories, **changes}))
    return path


def write_messy_table(path: Path, entries: list[dict]) -> Path:
    """Write a table as a hospital's spreadsheet gives it: semicolons, decimal commas, spellings, blanks, an error."""
    lines = ["\ufeff" + HEADER]
    for number, entry in enumerate(entries):
        age = ("062Y", "47 years", str(30 + number), f"{30 + number}.0", "")[number % 5]
        sex = ("F", "f ", "Male", "male", "M", "female")[number % 6]
        lactate = ("1,4", "2,05", "<0,5", "n/a", "999" if number in (14, 24) else "3,1")[number % 5]
        smoker = ("yes", "No", "no")[number % 3]
        patient = f"{100 + number // 2}{('', '.0', ' ')[number % 3]}"
        lines.append(f"{entry['name'].rsplit('.', 1)[0]};{patient};{age};{sex};{lactate};{smoker};W{number};"
                     f"2020-01-02 10:{number:02d};2020-01-02 09:00")  # fmt: skip
    lines.append(lines[-1])  # the last row twice
    lines.append("scan_99;900;50;F;1,0;no;W9;2020-01-02 10:00;2020-01-02 09:00")  # of no image
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_all(root: Path) -> dict[str, Path]:
    """Write everything; returns the paths by option."""
    entries = write_images(root / "scans")
    return {"images": root / "scans", "annotations": write_coco(root / "export.json", entries),
            "table": write_messy_table(root / "lab values.csv", entries)}  # fmt: skip
