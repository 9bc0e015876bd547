"""BrEaST-Lesions-USG: benign and malignant tumors in breast ultrasound with masks; age, tissue, signs and symptoms.

mdf prepare breast --root BREAST_ROOT --out datasets/breast --image-size 256

One case is one patient. What was read off the image (shape, margin, BI-RADS and so on) and the outcome are never read.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from mdf_detectron.data.image_paths import stem
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.sources.kit import masks
from mdf_detectron.data.sources.kit.collection import AGE, Collection, Content, root_option
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.table import find_file, read_table
from mdf_detectron.data.sources.kit.values import fold, is_empty

CLASSES = ("benign", "malignant")
TABLE, FOLDER = "BrEaST-Lesions-USG-clinical-data-Dec-15-2023", "BrEaST-Lesions_USG-images_and_masks"
ORIGIN = "cancerimagingarchive.net/collection/breast-lesions-usg"
LISTS = {"Tissue_composition": "tissue", "Signs": "sign", "Symptoms": "symptom"}
"""Columns of values joined by "&", and the prefix of the yes/no column of each value."""


def read_breast(job: Preparation, root: str | Path, **drawing: Any) -> Content | None:
    """Read the table and the masks, see :class:`~mdf_detectron.data.sources.kit.masks.MaskOptions`."""
    root, options = Path(root).resolve(), masks.MaskOptions(**drawing)
    needed = ("CaseID", "Image_filename", "Mask_other_filename", "Age", "Classification", *LISTS)
    path = find_file(root, [f"{TABLE}.xlsx", f"{TABLE}.csv"], ORIGIN)
    table = read_table(path, job.problems, needed, origin=ORIGIN)
    records = [{"age": _items(row["Age"]).pop()} for row in table.rows]
    for column, prefix in LISTS.items():
        values = [_items(row[column]) for row in table.rows]
        for item in sorted(set().union(*values) - {None, "no"}):
            name = f"{prefix}_{re.sub('[^a-z0-9]+', '_', item).strip('_')}"
            for record, value in zip(records, values, strict=True):
                record[name] = None if None in value else ("no", "yes")[item in value]
    rows = [
        (table.place(i), stem(str(row["Image_filename"])), fold(row["Classification"]), row["CaseID"], records[i])
        for i, row in enumerate(table.rows)
    ]
    images = masks.images_by_stem(root / FOLDER, "(?!.*_(tumor|other)).+")
    drawn = masks.pair_masks(job, CLASSES, rows, images, masks.list_masks(root / FOLDER, "{stem}_tumor"))
    job.notes.append(f"{sum(one.healthy for one in drawn)} normal cases are images without findings.")
    if other := sum(not is_empty(row["Mask_other_filename"]) for row in table.rows):
        job.notes.append(f"{other} images have masks of something else than the tumor, without a class: not used. A "
                         "detection there counts as a false positive.")  # fmt: skip
    columns = [ClinicalColumn(name, "categorical", vocabulary=("no", "yes")) for name in list(records[0])[1:]]
    schema = ClinicalSchema((AGE, *columns))
    return masks.masked_content(job, "BrEaST-Lesions-USG", CLASSES, schema, drawn, [table.path], options, {})


def _items(value: Any) -> set[str | None]:
    """Split a value at "&"; a missing one is None."""
    missing = is_empty(value) or fold(value) in ("not available", "not applicable")
    return {None} if missing else {fold(item) for item in str(value).split("&")}


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, f"folder with {TABLE}.xlsx (or .csv) and {FOLDER}/")
    masks.mask_options(parser)


COLLECTION = Collection("breast", __doc__, read_breast, None, add_options, "--root BREAST_ROOT --image-size 256")
