"""VinDr-CXR of Kaggle or PhysioNet: boxes of three readers per image; age and sex of the DICOM headers.

mdf prepare vindr --root VINDR_ROOT --out datasets/vindr --image-size 512 --readers fuse

The files have no patient id: each image counts as a patient.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.boxes import UNUSABLE_BOX, parse_box
from mdf_detectron.data.sources.kit.collection import AGE, SEX, Collection, Content, root_option
from mdf_detectron.data.sources.kit.studies import NO_FINDING, SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import Table, read_table
from mdf_detectron.data.sources.kit.values import fold, is_empty
from mdf_detectron.errors import SourceDataError

READERS = ("keep", "fuse")
KAGGLE_FILE = "train.csv"
PHYSIONET_FILE = "annotations/annotations_train.csv"
KAGGLE_ORIGIN = "kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection"
PHYSIONET_ORIGIN = "physionet.org/content/vindr-cxr"
SCHEMA = ClinicalSchema(
    (replace(AGE, minimum=1, source="dicom:PatientAge"), replace(SEX, source="dicom:PatientSex"))  # 000Y means unknown
)
CORNERS = ("x_min", "y_min", "x_max", "y_max")
UNLABELED, FUSED = "a finding, but no box: unlabeled, not healthy", "fused with another box"


def read_vindr(job: Account, root: str | Path, *, readers: str = "keep", fuse_iou: float = 0.5) -> Content:
    """Read the tables of either release.

    Args:
        root: folder of ``train.csv`` and ``train/`` (Kaggle), or of ``annotations/``, ``train/`` and ``test/``.
        readers: "keep": all readers' boxes; "fuse": see :func:`fuse_boxes` (needs ``ensemble-boxes``).
        fuse_iou: least intersection over union of boxes to fuse.
    """
    root = Path(root).resolve()
    if readers not in READERS or not 0 < fuse_iou <= 1:
        raise SourceDataError(f"--readers is {' or '.join(READERS)} and --fuse-iou above 0 and up to 1, not {readers} "
                              f"and {fuse_iou}")  # fmt: skip
    source, images = SourceAnnotations(), {}
    if (root / PHYSIONET_FILE).is_file():
        tables = [path for split in ("train", "test") for path in _read_physionet(root, split, images, source, job)]
    elif (root / KAGGLE_FILE).is_file():
        needed = ("image_id", "class_name", "rad_id", *CORNERS)
        table = read_table(root / KAGGLE_FILE, job.problems, needed, origin=KAGGLE_ORIGIN)
        tables = [table.path]
        _read_boxes(table, images, root / "train", None, source, job)
    else:
        raise SourceDataError(f"neither {root / KAGGLE_FILE} ({KAGGLE_ORIGIN}) nor {root / PHYSIONET_FILE} "
                              f"({PHYSIONET_ORIGIN}) is there; --root is the folder of one of them")  # fmt: skip
    source.class_names = sorted({box["class"] for study in images.values() for box in study.image.boxes})
    if readers == "fuse":
        for study in images.values():
            before = len(study.image.boxes)
            study.image.boxes = fuse_boxes(study.image.boxes, fuse_iou)
            source.dropped[FUSED] += before - len(study.image.boxes)
    else:
        job.notes.append(
            "Each reader's boxes are kept: one finding may have up to three boxes. --readers fuse makes one of those "
            "of a class and place."
        )
    source.images_in += len(images)
    healthy = [s for s in images.values() if s.image.boxes or s.row["healthy"]]
    job.image_drops[UNLABELED] += len(images) - len(healthy)
    job.say_patients_unknown()
    choices = {"readers": readers, "fuse_iou": fuse_iou if readers == "fuse" else None}
    return Content("VinDr-CXR", source, healthy, SCHEMA, tables, choices)


def fuse_boxes(boxes: Sequence[dict[str, Any]], iou: float) -> list[dict[str, Any]]:
    """Fuse overlapping boxes of a class by weighted box fusion (Solovyev et al., 2021) with equal weights.

    A box joins a running mean if their intersection over union is above ``iou``. Boxes are dicts of ``bbox`` (XYWH),
    ``class`` and ``reader``; fused ones have no ``reader``.
    """
    if len(boxes) < 2:
        return [{"bbox": box["bbox"], "class": box["class"]} for box in boxes]
    try:
        from ensemble_boxes import weighted_boxes_fusion
    except ImportError:
        raise SourceDataError("fusing readers needs ensemble-boxes; run: pip install 'mdf_detectron[fusion]'") from None
    names = sorted({box["class"] for box in boxes})
    corners = [(x, y, x + w, y + h) for x, y, w, h in (box["bbox"] for box in boxes)]
    side = max(map(max, corners))  # the package needs 0 to 1; an equal scale keeps the overlaps
    readers = sorted({box["reader"] for box in boxes})
    per_reader = [[i for i, box in enumerate(boxes) if box["reader"] == reader] for reader in readers]
    fused, _, labels = weighted_boxes_fusion(
        [[[v / side for v in corners[i]] for i in group] for group in per_reader],
        [[1.0] * len(group) for group in per_reader],
        [[names.index(boxes[i]["class"]) for i in group] for group in per_reader],
        iou_thr=iou,
    )
    return [
        {"bbox": [float(v) * side for v in (x0, y0, x1 - x0, y1 - y0)], "class": names[int(label)]}
        for (x0, y0, x1, y1), label in zip(fused, labels, strict=True)
    ]


def _read_physionet(
    root: Path, split: str, images: dict[str, Study], source: SourceAnnotations, job: Account
) -> list[Path]:
    """Read the boxes of a split, and the image labels, which mark the healthy images."""
    folder, fixed = root / "annotations", "test" if split == "test" else None
    boxes_path = folder / f"annotations_{split}.csv"
    if split == "test" and not boxes_path.is_file():
        job.notes.append(f"There is no {boxes_path.name}: the test split is taken from the training images.")
        return []
    boxes = read_table(boxes_path, job.problems, ("image_id", "class_name", *CORNERS), origin=PHYSIONET_ORIGIN)
    labels = folder / f"image_labels_{split}.csv"
    labels = read_table(labels, job.problems, ("image_id", "No finding"), origin=PHYSIONET_ORIGIN)
    known = set(images)
    _read_boxes(boxes, images, root / split, fixed, source, job)
    verdicts: dict[str, list[str]] = {}
    for number, row in enumerate(labels.rows):
        key = row["image_id"].strip()
        verdicts.setdefault(key, []).append(row["No finding"].strip())
        if key not in images:
            images[key] = _study(key, labels.place(number), root / split, fixed)
    for key, study in images.items():
        if key not in known:
            study.row["healthy"] = key in verdicts and all(v in ("1", "1.0") for v in verdicts[key])
    return [boxes.path, labels.path]


def _study(key: str, place: str, folder: Path, split: str | None) -> Study:
    image = SourceImage(key, key, place)
    return Study(image, folder / f"{key}.dicom", row={"healthy": False}, patient=key, split=split)


def _read_boxes(
    table: Table, images: dict[str, Study], folder: Path, split: str | None, source: SourceAnnotations, job: Account
) -> None:
    """Add the boxes of a table, one per row; an image is healthy if all its rows say so."""
    for number, row in enumerate(table.rows):
        key, name, place = row["image_id"].strip(), row["class_name"].strip(), table.place(number)
        if is_empty(key):
            job.problems.add("row without image or class", f"{place}: image_id is empty")
            continue
        if key not in images:
            images[key] = _study(key, place, folder, split)
            images[key].row["healthy"] = True
        if fold(name) in NO_FINDING:
            continue
        images[key].row["healthy"] = False
        source.boxes_in += 1
        bbox = parse_box([row[c] for c in CORNERS], place, job, corners=True)
        if bbox and is_empty(name):
            job.problems.add("row without image or class", f"{place}: class_name is empty, and there is a box")
        if bbox is None or is_empty(name):
            source.dropped[UNUSABLE_BOX] += 1
            continue
        images[key].image.boxes.append({"bbox": bbox, "class": name, "reader": row.get("rad_id", "")})


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, "folder with train.csv and train/ (Kaggle), or annotations/, train/ and test/")
    parser.add_argument("--readers", choices=READERS, default="keep", help="keep all boxes, or fuse (%(default)s)")
    parser.add_argument("--fuse-iou", type=float, default=0.5, help="overlap from which boxes are fused (%(default)s)")


COLLECTION = Collection("vindr", __doc__, read_vindr, SCHEMA, add_options, "--root VINDR_ROOT --image-size 512")
