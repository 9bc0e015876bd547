"""ISIC 2017 challenge: skin lesions in dermoscopy with masks; age and sex.

mdf prepare isic2017 --root ISIC_ROOT --out datasets/isic2017 --image-size 256

The images are color. The files have no patient id: each image counts as a patient.
"""

import argparse
from pathlib import Path
from typing import Any

from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit import masks
from mdf_detectron.data.sources.kit.collection import AGE, SEX, Collection, Content, root_option
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.table import find_file, read_table
from mdf_detectron.data.sources.kit.values import parse_number
from mdf_detectron.errors import SourceDataError

PARTS = {"Training": "train", "Validation": "val", "Test_v2": "test"}
"""Parts of the challenge, and the split that each is."""

CLASSES = ("melanoma", "nevus", "seborrheic keratosis")
SCHEMA = ClinicalSchema((AGE, SEX))
ORIGIN = "challenge.isic-archive.com/data (2017)"
_COLUMNS = ("melanoma", "seborrheic_keratosis")
_CLASS_OF = {(1, 0): CLASSES[0], (0, 0): CLASSES[1], (0, 1): CLASSES[2]}


def read_isic2017(
    job: Preparation, root: str | Path, *, challenge_parts: bool = False, **drawing: Any
) -> Content | None:
    """Read classes, records and masks of every part of the challenge that ``root`` holds.

    Args:
        challenge_parts: the challenge's parts are the splits; of two, the training images are divided.
        drawing: fields of :class:`~mdf_detectron.data.sources.kit.masks.MaskOptions`.
    """
    root, options = Path(root).resolve(), masks.MaskOptions(**drawing)
    parts = [part for part in PARTS if (root / f"ISIC-2017_{part}_Data").is_dir()] or ["Training"]
    if challenge_parts and (parts[0] != "Training" or len(parts) == 1 or job.options.folds):
        raise SourceDataError("--challenge-parts needs the training part and another one, and no --folds; "
                              f"there is {', '.join(parts)}")  # fmt: skip
    tables: list[Path] = []
    drawn: list[masks.Drawn] = []
    for part in parts:
        found = _read_part(job, root, f"ISIC-2017_{part}", tables)
        for one in found if challenge_parts and (part != "Training" or len(parts) == len(PARTS)) else ():
            one.study.split = PARTS[part]
        drawn += found
    job.say_patients_unknown()
    job.notes.append("An image that is neither melanoma nor seborrheic keratosis is a nevus, as the challenge says.")
    kept = "the splits" if challenge_parts else "divided anew (--challenge-parts keeps the challenge's splits)"
    job.notes.append(f"The parts of the challenge, {', '.join(parts)}, are {kept}.")
    choices = {"challenge_parts": challenge_parts}
    return masks.masked_content(job, "ISIC 2017", CLASSES, SCHEMA, drawn, tables, options, choices)


def _read_part(job: Preparation, root: Path, name: str, tables: list[Path]) -> list[masks.Drawn]:
    folder, needed = root / f"{name}_Data", ("image_id", "age_approximate", "sex")
    path = find_file(root, [f"{name}_Part3_GroundTruth.csv"], ORIGIN)
    truth = read_table(path, job.problems, ("image_id", *_COLUMNS), origin=ORIGIN)
    metadata = read_table(folder / f"{name}_Data_metadata.csv", job.problems, needed, origin=ORIGIN)
    tables += [truth.path, metadata.path]
    records = {r["image_id"]: {"age": r["age_approximate"], "sex": r["sex"]} for r in metadata.rows}
    rows = []
    for number, row in enumerate(truth.rows):
        marks = tuple(parse_number(row[column])[0] for column in _COLUMNS)
        label = _CLASS_OF.get(marks, ", ".join(row[column] for column in _COLUMNS))
        rows.append((truth.place(number), key := row["image_id"], label, key, records.get(key, {})))
    if absent := sum(not record for *_, record in rows):
        job.notes.append(f"{absent} images have no row in {metadata.path.name}: age and sex are missing.")
    found = masks.list_masks(root / f"{name}_Part1_GroundTruth", "{stem}_segmentation")
    return masks.pair_masks(job, CLASSES, rows, masks.images_by_stem(folder, r"ISIC_\d+"), found)


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, "folder with ISIC-2017_Training_Data/, …_Part1_GroundTruth/, …_Part3_GroundTruth.csv")
    parser.add_argument("--challenge-parts", action="store_true", help="the challenge's parts are the splits")
    masks.mask_options(parser)


COLLECTION = Collection("isic2017", __doc__, read_isic2017, SCHEMA, add_options, "--root ISIC_ROOT --image-size 256")
