"""Kept readings and prepared films → records, and their splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mdf_detectron.data.mimic.annotations import to_annotation
from mdf_detectron.data.mimic.cohort import Cohort
from mdf_detectron.data.mimic.options import MimicOptions
from mdf_detectron.data.mimic_schema import mimic_clinical_schema
from mdf_detectron.data.prepared_folder import SPLITS, Flow, PreparedImage
from mdf_detectron.data.splits import grouped_folds, train_val_test


def make_records(
    cohort: Cohort, sizes: dict[str, tuple[int, int]], suffix: str, options: MimicOptions, flow: Flow
) -> list[PreparedImage]:
    """One record a reading, or one a film with all its readers' boxes; boxes in the prepared film's pixels.

    Args:
        sizes: dicom_id → (width, height) of the prepared film; readings of other films are dropped and counted.
        suffix: of the films' files.
    """
    readings = cohort.readings[cohort.readings["dicom_id"].isin(sizes)]
    flow.add("readings with a film", len(cohort.readings), len(readings),
             {"film absent or unreadable": len(cohort.readings) - len(readings)})  # fmt: skip
    boxes = dict(tuple(cohort.boxes.groupby("reading_id", sort=False)))
    records: dict[str, PreparedImage] = {}
    for reading in readings.itertuples(index=False):
        key = reading.reading_id if options.records == "reading" else reading.dicom_id
        if key not in records:
            records[key] = _record(reading, sizes[reading.dicom_id], suffix)
        record = records[key]
        record.extra["reading_id"] = " ".join(filter(None, [record.extra.get("reading_id"), reading.reading_id]))
        scale = record.width / reading.width, record.height / reading.height
        for box in boxes.get(reading.reading_id, pd.DataFrame()).itertuples(index=False):
            record.annotations.append(to_annotation(box, options.classes, options.mask_shape, scale))
    made = sum(len(r.annotations) for r in records.values())
    flow.add("boxes of records", len(cohort.boxes), made, {"film absent or unreadable": len(cohort.boxes) - made})
    flow.add("records", len(readings), len(records), {"joined with the film's first": len(readings) - len(records)})
    return list(records.values())


def _record(reading: Any, size: tuple[int, int], suffix: str) -> PreparedImage:
    row = {c.name: _plain(getattr(reading, c.name)) for c in mimic_clinical_schema().columns}
    extra = {
        "dicom_id": reading.dicom_id,
        "study_id": int(reading.study_id),
        "stay_id": None if pd.isna(reading.stay_id) else int(reading.stay_id),
        "match": reading.match,
        "study_time": reading.time.isoformat(),
        "row_time": None if pd.isna(reading.intime) else reading.intime.isoformat(),
    }
    return PreparedImage(f"{reading.dicom_id}{suffix}", *size, str(reading.subject_id), row, extra=extra)


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return None
    return value if isinstance(value, str) else float(value)


def split_records(records: Sequence[PreparedImage], options: MimicOptions) -> dict[str, list[PreparedImage]]:
    """70/15/15, by patient (or, as the authors did, by row), stratified by the classes of a record."""
    names = train_val_test(_groups(records, options), _strata(records), options.seed)
    return {s: [r for r, n in zip(records, names, strict=True) if n == s] for s in SPLITS}


def fold_records(records: Sequence[PreparedImage], options: MimicOptions) -> list[dict[str, list[PreparedImage]]]:
    """``options.folds`` splits: each fold is the test split once, the next one its val split."""
    fold = grouped_folds(_groups(records, options), _strata(records), options.folds, options.seed)
    splits = []
    for test in range(options.folds):
        val = (test + 1) % options.folds
        name = {test: "test", val: "val"}
        splits.append({s: [r for r, f in zip(records, fold, strict=True) if name.get(f, "train") == s] for s in SPLITS})
    return splits


def _groups(records: Sequence[PreparedImage], options: MimicOptions) -> list:
    return list(range(len(records))) if options.split_by == "row" else [r.patient_id for r in records]


def _strata(records: Sequence[PreparedImage]) -> list[int]:
    """The rarest class of each record (0 for a record without boxes)."""
    present = [{a["category_id"] for a in r.annotations} for r in records]
    counts = {c: sum(c in p for p in present) for c in set().union(*present)}
    return [min(p, key=lambda c: (counts[c], c)) if p else 0 for p in present]
