"""BUS-BRA: benign and malignant tumors in breast ultrasound with masks; device and side.

mdf prepare busbra --root BUSBRA_ROOT --out datasets/busbra --image-size 256

Many images carry burnt-in calipers and text. Histology is the outcome and is never read.
"""

import argparse
from pathlib import Path
from typing import Any

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.sources.kit import masks
from mdf_detectron.data.sources.kit.collection import Collection, Content, root_option
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.table import find_file, read_table
from mdf_detectron.data.sources.kit.values import fold

CLASSES, TABLE, ORIGIN = ("benign", "malignant"), "bus_data.csv", "zenodo.org/records/8231412"
DEVICES = ("GE Logiq 5", "GE Logiq 7", "Toshiba Aplio 300", "U-Systems")
DEVICE = ClinicalColumn("device", "categorical", vocabulary=DEVICES)
SIDE = ClinicalColumn("side", "categorical", vocabulary=("left", "right", "single"))
BIRADS = ClinicalColumn("birads", "categorical", vocabulary=("2", "3", "4", "5"),
                        description="a reader's assessment of the same image")  # fmt: skip
SCHEMA = ClinicalSchema((DEVICE, SIDE))


def read_busbra(job: Preparation, root: str | Path, *, with_birads: bool = False, **drawing: Any) -> Content | None:
    """Read the table and the masks.

    Args:
        with_birads: add BI-RADS to the record.
        drawing: fields of :class:`~mdf_detectron.data.sources.kit.masks.MaskOptions`.
    """
    root, options = Path(root).resolve(), masks.MaskOptions(**drawing)
    columns = (DEVICE, SIDE, BIRADS) if with_birads else (DEVICE, SIDE)
    needed = ("ID", "Case", "Pathology", *(column.name.title() for column in columns[:2]), "BIRADS")
    table = read_table(find_file(root, [TABLE], ORIGIN), job.problems, needed, origin=ORIGIN)
    rows = [
        (table.place(number), row["ID"], fold(row["Pathology"]), row["Case"],
         {"device": row["Device"].partition(" @")[0], "side": row["Side"], "birads": row["BIRADS"]})
        for number, row in enumerate(table.rows)
    ]  # fmt: skip
    found = {f"bus_{stem}": paths for stem, paths in masks.list_masks(root / "Masks", "mask_{stem}").items()}
    drawn = masks.pair_masks(job, CLASSES, rows, masks.images_by_stem(root / "Images"), found)
    if with_birads:
        job.notes.append("**BIRADS is a reader's assessment of the same images, not a clinical record**: a gain by it "
                         "is the reader's knowledge.")  # fmt: skip
    schema, choices = ClinicalSchema(columns), {"with_birads": with_birads}
    return masks.masked_content(job, "BUS-BRA", CLASSES, schema, drawn, [table.path], options, choices)


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, f"folder with {TABLE}, Images/ and Masks/")
    parser.add_argument("--with-birads", action="store_true",
                        help="add BI-RADS to the record: a reader's assessment of the same image")  # fmt: skip
    masks.mask_options(parser)


COLLECTION = Collection("busbra", __doc__, read_busbra, SCHEMA, add_options, "--root BUSBRA_ROOT --image-size 256")
