"""MS-CXR: boxes of phrases of MIMIC-CXR's reports, with the triage values of the emergency visit of each image.

The images, visits, triage values and patients are those of MIMIC (:mod:`~mdf_detectron.data.sources.mimic`). MS-CXR
only has images with a finding; its own split is one of phrases, and is not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mdf_detectron.data.sources.kit.collection import UNUSABLE_BOX, Collection, parse_box, table_with
from mdf_detectron.data.sources.kit.output import Account
from mdf_detectron.data.sources.kit.table import Table
from mdf_detectron.data.sources.mimic.cleaning import clean_triage
from mdf_detectron.data.sources.mimic.cohort import add_clinical_values
from mdf_detectron.data.sources.mimic.layout import SourceFiles, physionet_files
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.sources.mimic.visits import (
    MATCHED,
    VITAL_COLUMNS,
    match_visits,
    read_patients,
    read_radiographs,
    read_stays,
    read_triage,
)
from mdf_detectron.data.sources.own.boxes import SourceAnnotations, SourceImage
from mdf_detectron.data.sources.own.joining import Study
from mdf_detectron.errors import SourceDataError

PATTERNS = ("ms-cxr/*/MS_CXR_Local_Alignment*.csv", "MS_CXR_Local_Alignment*.csv")
ORIGIN = "physionet.org/content/ms-cxr"
BOX_COLUMNS, SIZE_COLUMNS = ("x", "y", "w", "h"), ("image_width", "image_height")
REPEATED, TWO_SIZES, UNKNOWN_IMAGE = "repeats another box", "image of two sizes", "image not in the image table"
NO_SIZE = "unusable size of the image"


def read_ms_cxr(
    job: Account,
    root: str | Path,
    *,
    boxes: str | Path | None = None,
    overrides: Mapping[str, str | Path | None] | None = None,
    stay_window_days: float = 7,
    keep_unmatched: bool = False,
) -> Collection:
    """Read the boxes and MIMIC's tables; no image is opened.

    Args:
        root: parent of ``ms-cxr/``, ``mimiciv/``, ``mimic-iv-ed/`` and ``mimic-cxr-jpg/``.
        boxes: the table of boxes, if it lies elsewhere.
        overrides: of :func:`~mdf_detectron.data.sources.mimic.layout.physionet_files`.
        stay_window_days: an image may be so many days later than the departure of its visit.
        keep_unmatched: keep images without a visit; of them only age and gender are known.
    """
    files = physionet_files(root, overrides, with_readings=False)
    columns = ("dicom_id", "category_name", *BOX_COLUMNS, *SIZE_COLUMNS)
    table = table_with(Path(boxes) if boxes else _latest(Path(root)), columns, job, ORIGIN)
    source = _read_boxes(table, job)
    records = _clinical_records([image.name for image in source.images], files, stay_window_days, job)
    studies, drops = [], Counter()
    for image in source.images:
        record = records.get(image.name)
        if record is None:
            job.problems.add(UNKNOWN_IMAGE, f"{image.where}: {image.name} is not in the metadata of MIMIC-CXR-JPG")
            drops[UNKNOWN_IMAGE] += 1
        elif record["match"] not in MATCHED and not keep_unmatched:
            drops[record["match"]] += 1
        else:
            studies.append(_study(image, record, files))
    job.image_drops.update(drops)
    source.images = [study.image for study in studies]
    job.notes.append(
        "MS-CXR has images with a finding only. How often a model sees something on a healthy image cannot be measured "
        "on it; take healthy images from another folder."
    )
    tables = [table.path, *(path for paths in files.tables.values() for path in paths)]
    choices = {"stay_window_days": stay_window_days, "keep_unmatched": keep_unmatched}
    schema = mimic_clinical_schema()
    return Collection("MS-CXR with triage values", source, studies, schema, tables, choices=choices, has_times=True)


def _latest(root: Path) -> Path:
    """The table of boxes of the latest release."""
    for pattern in PATTERNS:
        if found := sorted(root.glob(pattern)):
            return found[-1]
    raise SourceDataError(f"no {root / PATTERNS[0]}; it comes from {ORIGIN}, or point --boxes to the file")


def _read_boxes(table: Table, job: Account) -> SourceAnnotations:
    images: dict[str, SourceImage] = {}
    source = SourceAnnotations([], [], len(table.rows))
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
        elif any((other["bbox"], other["class"]) == (box, label) for other in image.boxes):
            source.dropped[REPEATED] += 1  # one place of two phrases
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
    """Columns of MIMIC's tables for each image that they know: its visit, times, patient and clean values."""
    patients = read_patients(files.tables["patients"], job.problems, job.flow)
    stays = read_stays(files.tables["edstays"], job.problems, job.flow)
    triage = read_triage(files.tables["triage"], stays, job.problems, job.flow)
    radiographs = read_radiographs(files.tables["metadata"], job.problems, job.flow)
    radiographs = radiographs[radiographs["dicom_id"].isin(names)].reset_index(drop=True)
    radiographs = radiographs.join(match_visits(radiographs, stays, window_days))
    used = triage[triage["stay_id"].isin(radiographs["stay_id"])]
    clean, cleaning = clean_triage(used)
    removed = {
        f"{column}: {reason}": n for column, reasons in cleaning.removed.items() for reason, n in reasons.items()
    }
    kept = int(clean[list(VITAL_COLUMNS)].notna().sum().sum())
    job.flow.add("triage values", len(used) * len(VITAL_COLUMNS), kept, removed)
    for column, reasons in cleaning.changed.items():
        job.notes += [f"{n} values of {column} were changed: {reason}." for reason, n in reasons.items()]
    joined = add_clinical_values(radiographs, patients, clean, cleaning)
    if impossible := int(joined["age_removed"].sum()):
        job.notes.append(f"{impossible} images have an impossible age, which is missing.")
    return {row["dicom_id"]: row for row in joined.to_dict("records")}


def _study(image: SourceImage, record: Mapping[str, Any], files: SourceFiles) -> Study:
    path = files.image_path(image.name, int(record["subject_id"]), int(record["study_id"]))
    values = {name: record[name] for name in mimic_clinical_schema().names}
    arrival = None if pd.isna(record["intime"]) else record["intime"].isoformat()
    times = (record["time"].isoformat(), arrival)
    return Study(image, path, row=values, patient=str(record["subject_id"]), times=times)
