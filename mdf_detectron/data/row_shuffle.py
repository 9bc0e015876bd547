"""Rows given to other patients' images: the test of whether a model reads the table."""

from __future__ import annotations

from typing import Any

import numpy as np


def shuffle_rows(records: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The same records with their "clinical" rows permuted across patients.

    Patients are put in a random order and each takes the rows of the next, so that no image keeps a row of its
    own patient; a patient with more images than the next repeats that one's rows.

    Raises:
        ValueError: fewer than two patients.
    """
    by_patient: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        by_patient.setdefault(record["patient_id"], []).append(index)
    if len(by_patient) < 2:
        raise ValueError(f"rows cannot be shuffled across {len(by_patient)} patient(s)")
    patients = list(by_patient)
    order = [patients[i] for i in np.random.default_rng(seed).permutation(len(patients))]
    shuffled = [dict(record) for record in records]
    for patient, donor in zip(order, order[1:] + order[:1], strict=True):
        for position, index in enumerate(by_patient[patient]):
            donors = by_patient[donor]
            shuffled[index]["clinical"] = dict(records[donors[position % len(donors)]]["clinical"])
    return shuffled
