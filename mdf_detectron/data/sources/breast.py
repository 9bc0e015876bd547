"""BrEaST-Lesions-USG: benign and malignant tumors in breast ultrasound with masks; age, tissue, signs and symptoms.

mdf prepare breast --root BREAST_ROOT --out datasets/breast --image-size 256

One case is one patient. What the table has read off the image (shape, margin, BI-RADS and so on) and the outcome
(verification, diagnosis) are never read.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.sources.kit.collection import AGE, Collection, Content, root_option
from mdf_detectron.data.sources.kit.masks import (
    MaskOptions,
    find_done,
    images_by_stem,
    list_masks,
    mask_options,
    pair_masks,
    set_findings,
)
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.studies import NO_FINDING, SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import Table, find_file, read_table, stem
from mdf_detectron.data.sources.kit.values import fold, is_empty
from mdf_detectron.errors import shorten

CLASSES = ("benign", "malignant")
TABLE = "BrEaST-Lesions-USG-clinical-data-Dec-15-2023"
FOLDER = "BrEaST-Lesions_USG-images_and_masks"
ORIGIN = "cancerimagingarchive.net/collection/breast-lesions-usg"
LISTS = {"Tissue_composition": "tissue", "Signs": "sign", "Symptoms": "symptom"}
"""Columns of values joined by "&", and the prefix of the yes/no column of each value."""

NO_CLASS, HEALTHY_MASK = "no class", "normal case with a mask"
_NOT_AVAILABLE = ("not available", "not applicable")


def read_breast(job: Preparation, root: str | Path, **masks: Any) -> Content | None:
    """Read the table and the masks; ``masks`` are fields of
    :class:`~mdf_detectron.data.sources.kit.masks.MaskOptions`."""
    root, options = Path(root).resolve(), MaskOptions(**masks)
    needed = ("CaseID", "Image_filename", "Age", "Classification", *LISTS)
    path = find_file(root, [f"{TABLE}.xlsx", f"{TABLE}.csv"], ORIGIN)
    table = read_table(path, job.problems, needed, origin=ORIGIN)
    images = {key: path for key, path in images_by_stem(root / FOLDER).items() if not re.search("_(tumor|other)", key)}
    columns = yes_no_columns(table)
    studies: dict[str, tuple[Study, str]] = {}
    for number, row in enumerate(table.rows):
        key, name, where = stem(str(row["Image_filename"])), fold(row["Classification"]), table.place(number)
        if key in studies or name not in (*CLASSES, *NO_FINDING):
            told = "is in another row too" if key in studies else f"Classification is {shorten(row['Classification'])}"
            job.drop(NO_CLASS, f"{where}: {key} {told}; expected one row with {', '.join(CLASSES)} or normal")
            continue
        values = {"age": None if _is_missing(row["Age"]) else row["Age"]}
        values |= {column: _yes_no(row[of], item) for column, (of, item) in columns.items()}
        image = SourceImage(key, key, where)
        study = Study(image, images.get(key, root / FOLDER / f"{key}.png"), row=values, patient=row["CaseID"])
        studies[key] = study, name
    found = list_masks(root / FOLDER, "{stem}_tumor")
    pairs = pair_masks(studies, found, images.values(), job)
    if find_done(job, pairs, [table.path], asdict(options)):
        return None
    source = SourceAnnotations(list(CLASSES), images_in=len(table.rows))
    healthy = [(study, masks) for study, masks in pairs if studies[study.image.name][1] in NO_FINDING]
    for study, masks in healthy:
        for mask in masks:
            job.problems.add(HEALTHY_MASK, f"{study.image.where}: {mask.path.name}: a normal case has no mask")
    usable = set_findings([pair for pair in pairs if pair not in healthy], options, source, job)
    usable += [study for study, _ in healthy]
    job.notes.append(f"{len(healthy)} normal cases are images without findings.")
    if "Mask_other_filename" in table.columns and (
        other := sum(not is_empty(row["Mask_other_filename"]) for row in table.rows)
    ):
        job.notes.append(f"{other} images have masks of something else than the tumor, without a class: not used. A "
                         "detection there counts as a false positive.")  # fmt: skip
    schema = ClinicalSchema((AGE, *(ClinicalColumn(c, "categorical", vocabulary=("no", "yes")) for c in columns)))
    return Content("BrEaST-Lesions-USG", source, usable, schema, [table.path], asdict(options))


def yes_no_columns(table: Table) -> dict[str, tuple[str, str]]:
    """Return column → (column of :data:`LISTS`, value in it), for each value that the table has."""
    columns = {}
    for of, prefix in LISTS.items():
        items = {item for row in table.rows if not _is_missing(row[of]) for item in _items(row[of])}
        for item in sorted(items - {"no"}):
            columns[f"{prefix}_{re.sub(r'[^a-z0-9]+', '_', item).strip('_')}"] = (of, item)
    return columns


def _items(value: Any) -> set[str]:
    return {fold(item) for item in str(value).split("&")}


def _is_missing(value: Any) -> bool:
    return is_empty(value) or fold(value) in _NOT_AVAILABLE


def _yes_no(value: Any, item: str) -> str | None:
    return None if _is_missing(value) else ("no", "yes")[item in _items(value)]


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, f"folder with {TABLE}.xlsx (or .csv) and {FOLDER}/")
    mask_options(parser)


COLLECTION = Collection(
    "breast", __doc__, read_breast, options=add_options, example="--root BREAST_ROOT --image-size 256"
)
