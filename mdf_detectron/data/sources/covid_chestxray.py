"""The public covid-chestxray-dataset: boxes of the lungs; a few clinical columns, most values missing.

mdf prepare covid --root COVID_CHESTXRAY_ROOT --out datasets/covid_cxr

Columns that describe what followed the study (survival, intubation, intensive care) are left out: they would leak the
future.
"""

import argparse
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mdf_detectron.data.annotations import box_problem
from mdf_detectron.data.readers import read_size
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema, TableRecipe
from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.boxes import OTHER_SHAPE, UNUSABLE_BOX, differs_in_shape
from mdf_detectron.data.sources.kit.collection import AGE, SEX, Collection, Content, root_option
from mdf_detectron.data.sources.kit.preparation import ABSENT, NO_PATIENT
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import Row, Table, find_file, read_table
from mdf_detectron.data.splits import patient_key
from mdf_detectron.errors import ImageReadError, SourceDataError, find_doubled
from mdf_detectron.fileio import read_json

METADATA_FILE = "metadata.csv"
ANNOTATION_FILE = "annotations/imageannotation_ai_lung_bounding_boxes.json"
ORIGIN = "github.com/ieee8023/covid-chestxray-dataset"
CLASSES = ("Right Lung", "Left Lung")
XRAY_VIEWS = ("PA", "AP", "AP Supine", "AP Erect")
SAME_FILE = "file of another entry"
SCHEMA = ClinicalSchema(
    (
        AGE,
        ClinicalColumn("temperature", "numeric", "°C", 30, 45),
        ClinicalColumn("pO2_saturation", "numeric", "%", 50, 100),
        ClinicalColumn("leukocyte_count", "numeric", "10^9/L", 0, 100),
        ClinicalColumn("neutrophil_count", "numeric", "10^9/L", 0, 100),
        ClinicalColumn("lymphocyte_count", "numeric", "10^9/L", 0, 100),
        ClinicalColumn("offset", "numeric", "days", -365, 3650, description="days since the first symptom"),
        SEX,
    )
)


def read_covid(job: Account, root: str | Path, *, decimal_comma: bool = False) -> Content:
    """Read metadata, boxes and, from the headers, image sizes; ``root`` also holds ``images/`` and ``annotations/``."""
    root = Path(root).resolve()
    needed = ("patientid", "filename", "view", "modality", *SCHEMA.names)
    table = read_table(find_file(root, [METADATA_FILE], ORIGIN), job.problems, needed, origin=ORIGIN)
    annotation_file = find_file(root, [ANNOTATION_FILE], ORIGIN)
    coco, rows = read_lung_boxes(annotation_file), _first_rows(table, job)
    boxes: dict[Any, list[dict]] = {image["id"]: [] for image in coco["images"]}
    source = SourceAnnotations(list(CLASSES), len(coco["annotations"]), len(coco["images"]))
    for annotation in coco["annotations"]:
        if annotation["image_id"] in boxes:
            boxes[annotation["image_id"]].append(annotation)
        else:
            source.dropped["image not in the file"] += 1
    studies, seen = [], set()
    for number, entry in enumerate(coco["images"]):
        row, path = rows.get(entry["file_name"]), root / "images" / entry["file_name"]
        reason = SAME_FILE if path in seen else _why_not(path, row, entry)
        seen.add(path)
        if reason is None:
            image = _image(entry, f"{annotation_file.name} images[{number}]", boxes[entry["id"]], coco["names"], source)
            if image.boxes:
                studies.append(Study(image, path, row=row, patient=row["patientid"]))
            else:  # every image shows lungs: one without a box is unlabeled, not healthy
                reason = "no usable box"
        if reason:
            job.image_drops[reason] += 1
    unannotated = len(set(rows) - {entry["file_name"] for entry in coco["images"]})
    job.flow.add("rows of images", len(rows), len(rows) - unannotated, {"image without lung boxes": unannotated})
    tables, choices = [table.path, annotation_file], {"decimal_comma": decimal_comma}
    title = "Lungs in public chest radiographs"
    return Content(title, source, studies, replace(SCHEMA, table=TableRecipe(**choices)), tables, choices)


def read_lung_boxes(path: Path) -> dict[str, Any]:
    """Read ``images`` and ``annotations`` of the COCO file, and ``names`` (category id → name)."""
    try:
        coco = read_json(path, SourceDataError, nan=True)
        names = {c["id"]: c["name"] for c in coco["categories"]}
        files = [(image["id"], image["file_name"]) for image in coco["images"]]
        [annotation["image_id"] for annotation in coco["annotations"]]
    except (KeyError, TypeError) as error:
        raise SourceDataError(f"{path}: not COCO detection JSON ({error!r}); download it again") from None
    if doubled := find_doubled(i for i, _ in files):
        raise SourceDataError(f"{path}: image id {doubled[0]!r} occurs twice; ids must be unique")
    for _, name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise SourceDataError(f"{path}: file_name {name!r} leads out of the images folder")
    return {"images": coco["images"], "annotations": coco["annotations"], "names": names}


def _first_rows(table: Table, job: Account) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for row in table.rows:
        rows.setdefault(row["filename"].strip(), row)
    second = {"second row of a file": len(table.rows) - len(rows)}
    total = len(table.rows) + sum(table.dropped.values())
    job.flow.add("rows of metadata.csv", total, len(rows), {**table.dropped, **second})
    return rows


def _why_not(path: Path, row: Row | None, entry: dict[str, Any]) -> str | None:
    """Return why an image is left out, or None."""
    size = [entry.get(side) for side in ("width", "height")]
    if box_problem([0, 0, *size]) or not all(size):
        return "entry without the size its boxes are given in"
    if row is None:
        return "no row in metadata.csv"
    if row["modality"].strip() != "X-ray" or row["view"].strip() not in XRAY_VIEWS:
        return "not a frontal radiograph (CT slice or other view)"
    if patient_key(row["patientid"]) is None:
        return NO_PATIENT
    if not path.is_file():
        return ABSENT
    try:
        return OTHER_SHAPE if differs_in_shape(size, read_size(path)) else None
    except ImageReadError:
        return None  # reported when it is decoded


def _image(
    entry: dict[str, Any], where: str, annotations: list[dict], names: dict[Any, str], source: SourceAnnotations
) -> SourceImage:
    """Return an entry's usable boxes in pixels of the annotated copy; each mask is the box."""
    image = SourceImage(entry["file_name"], str(entry["id"]), where, (entry["width"], entry["height"]))
    for annotation in annotations:
        box, name = annotation.get("bbox"), names.get(annotation.get("category_id"))
        if name not in CLASSES:
            source.dropped["unknown class"] += 1
        elif box_problem(box):
            source.dropped[UNUSABLE_BOX] += 1
        else:
            x, y, w, h = box
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            image.boxes.append({"bbox": box, "class": name, "segmentation": [corners]})
    return image


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, f"copy of {ORIGIN}")
    parser.add_argument("--decimal-comma", action="store_true", help="numbers are written 38,1")


COLLECTION = Collection(
    "covid",
    __doc__,
    read_covid,
    SCHEMA,
    add_options,
    "--root COVID_CHESTXRAY_ROOT",
    defaults={"fractions": (0.65, 0.10, 0.25)},  # a small collection: fewer test patients would say little
)
