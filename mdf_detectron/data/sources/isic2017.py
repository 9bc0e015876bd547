"""ISIC 2017 challenge: skin lesions in dermoscopy with masks; age and sex.

mdf prepare isic2017 --root ISIC_ROOT --out datasets/isic2017 --image-size 256

The images are color. The files have no patient id: each image counts as a patient.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.collection import AGE, SEX, Collection, Content, root_option
from mdf_detectron.data.sources.kit.masks import (
    MaskOptions,
    find_done,
    list_masks,
    mask_options,
    pair_masks,
    set_findings,
)
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import read_table
from mdf_detectron.data.sources.kit.values import parse_number
from mdf_detectron.errors import SourceDataError, shorten

PARTS = {"Training": "train", "Validation": "val", "Test_v2": "test"}
"""Parts of the challenge, and the split that each is."""

NEVUS = "nevus"
CLASSES = ("melanoma", NEVUS, "seborrheic keratosis")
SCHEMA = ClinicalSchema((AGE, SEX))
ORIGIN = "challenge.isic-archive.com/data (2017)"
NO_CLASS = "no class"
_COLUMNS = {"melanoma": CLASSES[0], "seborrheic_keratosis": CLASSES[2]}


def read_isic2017(job: Preparation, root: str | Path, *, challenge_parts: bool = False, **masks: Any) -> Content | None:
    """Read classes, metadata and masks of every part that ``root`` holds.

    Args:
        challenge_parts: the challenge's training, validation and test part are the splits.
        masks: fields of :class:`~mdf_detectron.data.sources.kit.masks.MaskOptions`.
    """
    root, options = Path(root).resolve(), MaskOptions(**masks)
    if not root.is_dir():
        raise SourceDataError(f"no folder {root}; --root is the folder of the downloaded files")
    parts = [part for part in PARTS if (root / f"ISIC-2017_{part}_Data").is_dir()]
    if not parts:
        raise SourceDataError(f"no {root / 'ISIC-2017_Training_Data'}; it comes from {ORIGIN}")
    source, tables, pairs = SourceAnnotations(list(CLASSES)), [], []
    for part in parts:
        tables += _read_part(root, part, pairs, source, job)
    _set_splits([study for study, _ in pairs], parts if challenge_parts else (), job.options.folds)
    choices = {"challenge_parts": challenge_parts, **asdict(options)}
    if find_done(job, pairs, tables, choices):
        return None
    studies = set_findings(pairs, options, source, job)
    job.patients_known = False
    job.notes.append("**Patients are not known: no file has a patient id, each image counts as a patient of its own.** "
                     "Images of one patient may be in several splits and the results too good.")  # fmt: skip
    job.notes.append(f"Parts of the challenge: {', '.join(parts)}; " + ("they are the splits." if challenge_parts else
                     "all images are divided anew (--challenge-parts keeps the challenge's splits)."))  # fmt: skip
    job.notes.append("An image that is neither melanoma nor seborrheic keratosis is a nevus, as the challenge says.")
    return Content("ISIC 2017", source, studies, SCHEMA, tables, choices)


def _read_part(root: Path, part: str, pairs: list, source: SourceAnnotations, job: Preparation) -> list[Path]:
    """Append (study, its masks) for each row of the part's classes; return the tables read."""
    name, folder = f"ISIC-2017_{part}", root / f"ISIC-2017_{part}_Data"
    classes = read_table(root / f"{name}_Part3_GroundTruth.csv", job.problems, ("image_id", *_COLUMNS), origin=ORIGIN)
    needed = ("image_id", "age_approximate", "sex")
    metadata = read_table(folder / f"{folder.name}_metadata.csv", job.problems, needed, origin=ORIGIN)
    records = {row["image_id"].strip(): row for row in metadata.rows}
    studies: dict[str, tuple[Study, str]] = {}
    for number, row in enumerate(classes.rows):
        key, where = row["image_id"].strip(), classes.place(number)
        marks = [parse_number(row[column])[0] for column in _COLUMNS]
        source.images_in += 1
        if key in studies or not set(marks) <= {0, 1} or sum(marks) > 1:
            told = "is in another row too" if key in studies else ", ".join(shorten(row[c]) for c in _COLUMNS)
            job.drop(NO_CLASS, f"{where}: {key}: {told}; expected one row with 0 or 1 in {', '.join(_COLUMNS)}")
            continue
        record = records.get(key, {})
        values = {"age": record.get("age_approximate"), "sex": record.get("sex")}
        study = Study(SourceImage(key, key, where), folder / f"{key}.jpg", row=values, patient=key, split=part)
        studies[key] = study, dict(zip(marks, _COLUMNS.values(), strict=True)).get(1, NEVUS)
    if absent := len(studies.keys() - records.keys()):
        job.notes.append(f"{absent} images of {part} have no row in {metadata.path.name}: age and sex are missing.")
    masks = list_masks(root / f"{name}_Part1_GroundTruth", "{stem}_segmentation")
    pairs += pair_masks(studies, masks, sorted(folder.glob("*.jpg")), job)
    return [classes.path, metadata.path]


def _set_splits(studies: Sequence[Study], parts: Sequence[str], folds: int) -> None:
    """Turn the part of each study into its split; without ``parts``, and for an absent one, images are divided anew."""
    if not parts:
        kept = {}
    elif parts[0] != "Training" or len(parts) == 1 or folds:
        raise SourceDataError(f"--challenge-parts needs the training part and another one, and no --folds; there is "
                              f"{', '.join(parts)}")  # fmt: skip
    else:
        kept = {part: PARTS[part] for part in (parts if len(parts) == len(PARTS) else parts[1:])}
    for study in studies:
        study.split = kept.get(study.split)


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, "folder with ISIC-2017_Training_Data/, …_Part1_GroundTruth/, …_Part3_GroundTruth.csv")
    parser.add_argument("--challenge-parts", action="store_true",
                        help="the challenge's training, validation and test parts are the splits")  # fmt: skip
    mask_options(parser)


COLLECTION = Collection("isic2017", __doc__, read_isic2017, SCHEMA, add_options, "--root ISIC_ROOT --image-size 256")
