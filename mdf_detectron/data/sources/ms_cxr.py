"""MS-CXR: boxes of report phrases, with MIMIC's triage values (credentialed PhysioNet access).

mdf prepare ms-cxr --root PHYSIONET_ROOT --out datasets/ms_cxr --image-size 512

The images, visits, triage values and patients are those of MIMIC. MS-CXR only has images with a finding. Its own split
is one of phrases, and is not used.
"""

import argparse
from pathlib import Path
from typing import Any

from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.boxes import UNUSABLE_BOX, parse_box
from mdf_detectron.data.sources.kit.collection import Collection, Content, root_option
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, SourceImage
from mdf_detectron.data.sources.kit.table import Table, read_table
from mdf_detectron.data.sources.mimic.cleaning import add_clinical_values, clean_triage
from mdf_detectron.data.sources.mimic.collection import study_of
from mdf_detectron.data.sources.mimic.layout import TABLES, SourceFiles, add_path_options, physionet_files
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.sources.mimic.tables import (
    MATCHED,
    VITAL_COLUMNS,
    match_visits,
    read_patients,
    read_radiographs,
    read_stays,
    read_triage,
)
from mdf_detectron.errors import SourceDataError

PATTERNS = ("ms-cxr/*/MS_CXR_Local_Alignment*.csv", "MS_CXR_Local_Alignment*.csv")
ORIGIN = "physionet.org/content/ms-cxr"
BOX_COLUMNS, SIZE_COLUMNS = ("x", "y", "w", "h"), ("image_width", "image_height")
TWO_SIZES, UNKNOWN_IMAGE = "image of two sizes", "image not in the image table"
NO_SIZE = "unusable size of the image"


def read_ms_cxr(
    job: Account,
    root: str | Path,
    *,
    boxes: str | Path | None = None,
    stay_window_days: float = 7,
    keep_unmatched: bool = False,
    **overrides: str | Path | None,
) -> Content:
    """Read the boxes and MIMIC's tables.

    Args:
        root: parent of ``ms-cxr/``, ``mimiciv/``, ``mimic-iv-ed/`` and ``mimic-cxr-jpg/``.
        boxes: table of boxes, if not at its default place.
        stay_window_days, keep_unmatched: see :class:`~mdf_detectron.data.sources.mimic.collection.MimicOptions`.
        overrides: see :func:`~mdf_detectron.data.sources.mimic.layout.physionet_files`.
    """
    files = physionet_files(root, overrides, with_readings=False)
    columns = ("dicom_id", "category_name", *BOX_COLUMNS, *SIZE_COLUMNS)
    table = read_table(Path(boxes) if boxes else _latest(Path(root)), job.problems, columns, origin=ORIGIN)
    source = _read_boxes(table, job)
    records = _clinical_records([image.name for image in source.images], files, stay_window_days, job)
    studies = []
    for image in source.images:
        record = records.get(image.name)
        if record is None:
            job.drop(UNKNOWN_IMAGE, f"{image.where}: {image.name} is not in the metadata of MIMIC-CXR-JPG")
        elif record["match"] not in MATCHED and not keep_unmatched:
            job.image_drops[record["match"]] += 1
        else:
            studies.append(study_of(image, record, files))
    job.notes.append(
        "MS-CXR has images with a finding only. How often a model sees something on a healthy image cannot be measured "
        "on it; take healthy images from another folder."
    )
    tables = [table.path, *(path for paths in files.tables.values() for path in paths)]
    choices = {"stay_window_days": stay_window_days, "keep_unmatched": keep_unmatched}
    schema = mimic_clinical_schema()
    return Content("MS-CXR with triage values", source, studies, schema, tables, choices, has_times=True)


def _latest(root: Path) -> Path:
    """Return the table of boxes of the latest release."""
    for pattern in PATTERNS:
        if found := sorted(root.glob(pattern)):
            return found[-1]
    raise SourceDataError(f"no {root / PATTERNS[0]}; it comes from {ORIGIN}, or point --boxes to the file")


def _read_boxes(table: Table, job: Account) -> SourceAnnotations:
    images: dict[str, SourceImage] = {}
    source = SourceAnnotations(boxes_in=len(table.rows))
    broken: set[str] = set()
    for number, row in enumerate(table.rows):
        key, place = row["dicom_id"].strip(), table.place(number)
        size = _size([row[column] for column in SIZE_COLUMNS], place, job)
        image = images.setdefault(key, SourceImage(key, key, place, size))
        if size is None or image.size != size:
            if size is not None and image.size is not None:
                text = f"{key} has {size[0]} × {size[1]} pixels here and {image.size[0]} × {image.size[1]} before"
                job.problems.add(TWO_SIZES, f"{place}: {text}")
            broken.add(key)
        box = parse_box([row[column] for column in BOX_COLUMNS], place, job)
        label = row["category_name"].strip()
        if box is None:
            source.dropped[UNUSABLE_BOX] += 1
        else:
            image.boxes.append({"bbox": box, "class": label})
    source.images_in = len(images)
    job.image_drops[NO_SIZE] += len(broken)
    without = {key for key, image in images.items() if key not in broken and not image.boxes}
    job.image_drops[UNUSABLE_BOX] += len(without)
    source.images = [image for key, image in images.items() if key not in broken | without]
    source.class_names = sorted({box["class"] for image in source.images for box in image.boxes})
    return source


def _size(values: list[str], place: str, job: Account) -> tuple[int, int] | None:
    try:
        width, height = (float(value) for value in values)
        if not (width >= 1 and height >= 1 and width.is_integer() and height.is_integer()):
            raise ValueError
    except (ValueError, OverflowError):
        job.problems.add(NO_SIZE, f"{place}: image_width, image_height {', '.join(map(repr, values))}; expected pixels")
        return None
    return int(width), int(height)


def _clinical_records(
    names: list[str], files: SourceFiles, window_days: float, job: Account
) -> dict[str, dict[str, Any]]:
    """Join MIMIC's tables for each known image: visit, times, patient and clean values."""
    patients = read_patients(files.tables["patients"], job.problems, job.flow)
    stays = read_stays(files.tables["edstays"], job.problems, job.flow)
    triage = read_triage(files.tables["triage"], stays, job.problems, job.flow)
    radiographs = read_radiographs(files.tables["metadata"], job.problems, job.flow)
    radiographs = radiographs[radiographs["dicom_id"].isin(names)].reset_index(drop=True)
    radiographs = radiographs.join(match_visits(radiographs, stays, window_days))
    used = triage[triage["stay_id"].isin(radiographs["stay_id"])]
    clean, cleaning = clean_triage(used)
    kept = int(clean[list(VITAL_COLUMNS)].notna().sum().sum())
    job.flow.add("triage values", len(used) * len(VITAL_COLUMNS), kept, cleaning.dropped())
    job.notes += [f"{n} values of {column} were changed: {reason}."
                  for (column, reason), n in sorted(cleaning.changed.items())]  # fmt: skip
    joined = add_clinical_values(radiographs, patients, clean, cleaning)
    if impossible := int(joined["age_removed"].sum()):
        job.notes.append(f"{impossible} images have an impossible age, which is missing.")
    return {row["dicom_id"]: row for row in joined.to_dict("records")}


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, "folder with ms-cxr/, mimiciv/, mimic-iv-ed/ and mimic-cxr-jpg/")
    parser.add_argument("--boxes", metavar="PATH", help="path of MS-CXR's table of boxes, if it is elsewhere")
    add_path_options(parser, (*TABLES, "images"))


COLLECTION = Collection(
    "ms-cxr", __doc__, read_ms_cxr, mimic_clinical_schema(), add_options, "--root PHYSIONET_ROOT --image-size 512"
)
