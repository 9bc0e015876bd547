"""BUS-BRA: benign and malignant tumors in breast ultrasound with masks; device and side.

mdf prepare busbra --root BUSBRA_ROOT --out datasets/busbra --image-size 256

Many images carry burnt-in calipers and text. Histology is the outcome and is never read.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.sources.kit.collection import Collection, Content, root_option
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
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import find_file, read_table
from mdf_detectron.data.sources.kit.values import fold
from mdf_detectron.errors import shorten

CLASSES = ("benign", "malignant")
TABLE = "bus_data.csv"
ORIGIN = "zenodo.org/records/8231412"
DEVICE = ClinicalColumn(
    "device", "categorical", vocabulary=("GE Logiq 5", "GE Logiq 7", "Toshiba Aplio 300", "U-Systems")
)
SIDE = ClinicalColumn("side", "categorical", vocabulary=("left", "right", "single"))
BIRADS = ClinicalColumn("birads", "categorical", vocabulary=("2", "3", "4", "5"),
                        description="a reader's assessment of the same image")  # fmt: skip
SCHEMA = ClinicalSchema((DEVICE, SIDE))
NO_CLASS = "no class"


def read_busbra(job: Preparation, root: str | Path, *, with_birads: bool = False, **masks: Any) -> Content | None:
    """Read the table and the masks.

    Args:
        with_birads: read BI-RADS into the record.
        masks: fields of :class:`~mdf_detectron.data.sources.kit.masks.MaskOptions`.
    """
    root, options = Path(root).resolve(), MaskOptions(**masks)
    needed = ("ID", "Case", "Pathology", "Device", "Side", *(["BIRADS"] if with_birads else []))
    table = read_table(find_file(root, [TABLE], ORIGIN), job.problems, needed, origin=ORIGIN)
    images = images_by_stem(root / "Images")
    studies: dict[str, tuple[Study, str]] = {}
    for number, row in enumerate(table.rows):
        key, name, where = row["ID"].strip(), fold(row["Pathology"]), table.place(number)
        if key in studies or name not in CLASSES:
            told = "is in another row too" if key in studies else f"Pathology is {shorten(row['Pathology'])}"
            job.drop(NO_CLASS, f"{where}: {key} {told}; expected one row with {' or '.join(CLASSES)}")
            continue
        values = {"device": row["Device"].partition("@")[0].strip(), "side": row["Side"], "birads": row.get("BIRADS")}
        path = images.get(key, root / "Images" / f"{key}.png")
        studies[key] = Study(SourceImage(key, key, where), path, row=values, patient=row["Case"]), name
    found = {f"bus_{stem}": paths for stem, paths in list_masks(root / "Masks", "mask_{stem}").items()}
    pairs = pair_masks(studies, found, images.values(), job)
    choices = {"with_birads": with_birads, **asdict(options)}
    if find_done(job, pairs, [table.path], choices):
        return None
    source = SourceAnnotations(list(CLASSES), images_in=len(table.rows))
    usable, columns = set_findings(pairs, options, source, job), (DEVICE, SIDE)
    if with_birads:
        columns = (*columns, BIRADS)
        job.notes.append("**BIRADS is a reader's assessment of the same images, not a clinical record**: a gain by it "
                         "is the reader's knowledge.")  # fmt: skip
    return Content("BUS-BRA", source, usable, ClinicalSchema(columns), [table.path], choices)


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, f"folder with {TABLE}, Images/ and Masks/")
    parser.add_argument("--with-birads", action="store_true",
                        help="add BI-RADS to the record: a reader's assessment of the same image")  # fmt: skip
    mask_options(parser)


COLLECTION = Collection("busbra", __doc__, read_busbra, SCHEMA, add_options, "--root BUSBRA_ROOT --image-size 256")
