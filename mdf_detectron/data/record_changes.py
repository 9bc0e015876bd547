"""Change clinical records: exchange them between patients, remove them, or hide part of their values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdf_detectron.errors import DatasetError

Record = Mapping[str, Any]

EXCHANGED = "with another patient's record"
"""Describes :func:`permute_records` in reports."""


def clinical_column_names(records: Sequence[Record]) -> list[str]:
    """List the clinical columns of the records, in order of appearance."""
    return list(dict.fromkeys(name for record in records for name in record.get("clinical") or {}))


def permute_records(
    records: Sequence[Record], columns: Sequence[str] | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Return new records in which every patient has another patient's values in ``columns`` (None: all).

    Patients form a random circle and each takes the values of the next, so nobody keeps their own; a patient's n-th
    image takes them from the donor's n-th image, wrapping around. All columns come from the same donor, so that the
    permuted values stay plausible together.

    Raises:
        DatasetError: fewer than two patients, or a column that no record has.
    """
    columns = _checked(records, columns)
    images_of: dict[Any, list[int]] = {}
    for i, record in enumerate(records):
        images_of.setdefault(record.get("patient_id", ("image", record.get("image_id", i))), []).append(i)
    if len(images_of) < 2:
        raise DatasetError(f"clinical records are exchanged between two patients at least; there are {len(images_of)}")
    patients = list(images_of)
    circle = [patients[i] for i in np.random.default_rng(seed).permutation(len(patients))]
    out = [dict(record) for record in records]
    for patient, donor in zip(circle, circle[1:] + circle[:1], strict=True):
        for n, i in enumerate(images_of[patient]):
            source = records[images_of[donor][n % len(images_of[donor])]].get("clinical") or {}
            out[i]["clinical"] = {**(records[i].get("clinical") or {}), **{c: source.get(c) for c in columns}}
    return out


def remove_records(records: Sequence[Record], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return new records in which ``columns`` (None: all) are missing."""
    columns = _checked(records, columns)
    return [_without(r, columns) for r in records]


def hide_values(records: Sequence[Record], share: float, seed: int = 0) -> list[dict[str, Any]]:
    """Return new records, each without a random ``share`` (0 to 1) of its columns.

    What does not make whole columns is rounded up or down at random, so the mean is exact. A larger share hides the
    same columns and more.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    columns, rng = clinical_column_names(records), np.random.default_rng(seed)
    counts = (share * len(columns) + np.random.default_rng([seed, 1]).random(len(records))).astype(int)
    return [_without(r, rng.permutation(columns)[:n].tolist()) for r, n in zip(records, counts, strict=True)]


def _without(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    return {**record, "clinical": {**(record.get("clinical") or {}), **dict.fromkeys(columns)}}


def _checked(records: Sequence[Record], columns: Sequence[str] | None) -> list[str]:
    known = clinical_column_names(records)
    unknown = sorted(set(columns or ()) - set(known))
    if unknown:
        raise DatasetError(f"no record has the clinical column(s) {unknown}; there are {known}")
    return known if columns is None else list(columns)
