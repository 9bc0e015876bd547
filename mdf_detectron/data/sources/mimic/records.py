"""Kept readings and prepared images → records, and their splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import SPLITS, Flow, PreparedImage
from mdf_detectron.data.sources.kit.image_files import ImageFile
from mdf_detectron.data.sources.kit.values import ProblemList
from mdf_detectron.data.sources.mimic.annotations import to_annotation
from mdf_detectron.data.sources.mimic.cohort import Cohort
from mdf_detectron.data.sources.mimic.options import MimicOptions
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.splits import balanced_parts

FRACTIONS = (0.7, 0.15, 0.15)
OTHER_SHAPE = "image of another shape than was read"
SHAPE_TOLERANCE = 0.02
"""Relative difference of the aspect ratios: a resized copy's is rounded, a turned or swapped image's is far off."""


def make_records(
    cohort: Cohort,
    images: dict[str, ImageFile],
    suffix: str,
    options: MimicOptions,
    problems: ProblemList,
    flow: Flow,
) -> list[PreparedImage]:
    """One record a reading, or one an image with all its readers' boxes; boxes in the prepared image's pixels.

    Args:
        images: dicom_id → the prepared image; readings of other images are dropped and counted.
        suffix: of the images' files.
        problems: gets the readings whose image has another shape than the reader saw.
    """
    readings, dropped = _with_radiograph(cohort.readings, images, problems)
    flow.add("readings with an image", len(cohort.readings), len(readings), dropped)
    boxes = dict(tuple(cohort.boxes.groupby("reading_id", sort=False)))
    records: dict[str, PreparedImage] = {}
    for reading in readings.itertuples(index=False):
        key = reading.reading_id if options.records == "reading" else reading.dicom_id
        if key not in records:
            records[key] = _record(reading, images[reading.dicom_id], suffix)
        record = records[key]
        record.extra["reading_id"] = " ".join(filter(None, [record.extra.get("reading_id"), reading.reading_id]))
        scale = record.width / reading.width, record.height / reading.height
        for box in boxes.get(reading.reading_id, pd.DataFrame()).itertuples(index=False):
            record.annotations.append(to_annotation(box, options.classes, options.mask_shape, scale))
    made = sum(len(r.annotations) for r in records.values())
    flow.add("boxes of records", len(cohort.boxes), made, {"reading without its image": len(cohort.boxes) - made})
    flow.add("records", len(readings), len(records), {"joined with the image's first": len(readings) - len(records)})
    return list(records.values())


def _with_radiograph(
    readings: pd.DataFrame, images: dict[str, ImageFile], problems: ProblemList
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The readings whose image is there and has the shape that the reader saw (its scale may differ), and the rest."""
    there = readings[readings["dicom_id"].isin(images)]
    width = there["dicom_id"].map({d: image.width for d, image in images.items()}).astype("float64")
    height = there["dicom_id"].map({d: image.height for d, image in images.items()}).astype("float64")
    turned = (width * there["height"] / (height * there["width"]) - 1).abs() > SHAPE_TOLERANCE
    for row in there.index[turned]:
        reading = there.loc[row]
        problems.add(OTHER_SHAPE, f"image {reading['dicom_id']} has {width[row]:.0f} × {height[row]:.0f} pixels, but "
                                  f"reading {reading['reading_id']} is of {reading['width']} × {reading['height']}; "
                                  "boxes would not fit, download the image again")  # fmt: skip
    dropped = {"image absent or unreadable": len(readings) - len(there), OTHER_SHAPE: int(turned.sum())}
    return there[~turned], dropped


def _record(reading: Any, image: ImageFile, suffix: str) -> PreparedImage:
    row = {c.name: _plain(getattr(reading, c.name)) for c in mimic_clinical_schema().columns}
    extra = {
        "dicom_id": reading.dicom_id,
        "study_id": int(reading.study_id),
        "stay_id": None if pd.isna(reading.stay_id) else int(reading.stay_id),
        "match": reading.match,
        "study_time": reading.time.isoformat(),
        "row_time": None if pd.isna(reading.intime) else reading.intime.isoformat(),
    }
    name, patient = f"{reading.dicom_id}{suffix}", str(reading.subject_id)
    return PreparedImage(name, image.width, image.height, patient, row, extra=extra, sha256=image.sha256)


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return None
    return value if isinstance(value, str) else float(value)


def split_records(records: Sequence[PreparedImage], options: MimicOptions) -> dict[str, list[PreparedImage]]:
    """70/15/15, by patient (or, as the authors did, by row), with about the same share of each class."""
    part = balanced_parts(_groups(records, options), _counts(records, options), FRACTIONS, options.seed)
    return {s: [r for r, p in zip(records, part, strict=True) if p == k] for k, s in enumerate(SPLITS)}


def fold_records(records: Sequence[PreparedImage], options: MimicOptions) -> list[dict[str, list[PreparedImage]]]:
    """``options.folds`` splits: each fold is the test split once, the next one its val split."""
    shares = (1 / options.folds,) * options.folds
    fold = balanced_parts(_groups(records, options), _counts(records, options), shares, options.seed)
    splits = []
    for test in range(options.folds):
        name = {test: "test", (test + 1) % options.folds: "val"}
        splits.append({s: [r for r, f in zip(records, fold, strict=True) if name.get(f, "train") == s] for s in SPLITS})
    return splits


def _groups(records: Sequence[PreparedImage], options: MimicOptions) -> list:
    return list(range(len(records))) if options.split_by == "row" else [r.patient_id for r in records]


def _counts(records: Sequence[PreparedImage], options: MimicOptions) -> np.ndarray:
    """Boxes of each class, (records, classes) int64."""
    counts = np.zeros((len(records), len(options.classes)), dtype=np.int64)
    for row, record in zip(counts, records, strict=True):
        np.add.at(row, [a["category_id"] - 1 for a in record.annotations], 1)
    return counts
