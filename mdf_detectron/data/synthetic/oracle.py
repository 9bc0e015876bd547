"""Compute the best possible detections on the synthetic cohort: from the image, by late fusion, from image and record.

The generating process is known, so the class posterior of each finding is P(y | image) without the record and
P(y | image, record) with it. Late fusion multiplies the odds of the first by P(y | record) / P(y), as odds.
:func:`oracle_predictions` scores the drawn findings by these, for the usual evaluator.
"""

import itertools
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.synthetic import cohort
from mdf_detectron.data.synthetic.interaction import COLUMNS, sign_likelihood
from mdf_detectron.errors import DatasetError
from mdf_detectron.fileio import read_json

TRUTH_FILE_NAME = "oracle_truth.json"
ORACLES = ("image", "late fusion", "both")


def class_weights(appearances: Mapping[str, str], vitals: list[float] | None, signal: float) -> np.ndarray:
    """Return weights (3, 3) proportional to P(classes of A and B | looks, vitals), in the order of the priors."""
    observed = np.isfinite(np.array(vitals, dtype=float)) if vitals is not None else np.zeros(6, dtype=bool)
    precision = np.linalg.inv(
        cohort.vital_correlation()[np.ix_(observed, observed)]
    )  # missing vitals are integrated out
    joint = []
    for label_a, label_b in itertools.product(cohort.CLASS_PRIORS["A"], cohort.CLASS_PRIORS["B"]):
        labels = {"A": label_a, "B": label_b}
        weight = cohort.CLASS_PRIORS["A"][label_a] * cohort.CLASS_PRIORS["B"][label_b]
        weight *= all(look in ("ambiguous", labels[a] or "none") for a, look in appearances.items())
        if weight and observed.any():
            mean = signal * (np.array(cohort.CLASS_SHIFTS["A"][label_a]) + np.array(cohort.CLASS_SHIFTS["B"][label_b]))
            offset = (np.array(vitals, dtype=float) - mean)[observed]
            weight *= math.exp(-0.5 * offset @ precision @ offset)
        joint.append(weight)
    return np.array(joint).reshape(3, 3)


def shares(archetype: str, weights: np.ndarray) -> dict[str | None, float]:
    """Normalize, rounded so that equal probabilities tie despite floating-point error."""
    total = float(weights.sum())
    return {k: round(float(w) / total, 12) for k, w in zip(cohort.CLASS_PRIORS[archetype], weights, strict=True)}


def beliefs(image: Mapping[str, Any] | None, record: Mapping[str, Any] | None, signal: float) -> dict[str, float]:
    """Return P(class) of each class of A and B given what is known, summed over classes and unknown columns.

    Args:
        image: an entry of the truth file; None if the image is unknown.
        record: values of COLUMNS, None where missing, and "vitals": (6,) in SD units, NaN where missing, or None;
            None if unknown.
        signal: λ of the vitals.
    """
    possible = _possible_records(record)
    findings = {f["archetype"]: f for f in image["findings"]} if image else {}  # one look per archetype
    looks = {a: f["appearance"] for a, f in findings.items()}
    classes = class_weights(looks, record["vitals"] if record else None, signal)
    by_signs = {a: np.ones((3, len(possible["gender"]))) for a in cohort.CLASS_PRIORS}
    by_signs |= {a: sign_likelihood(f["signs"], possible) for a, f in findings.items() if "signs" in f}
    joint = classes * (by_signs["A"] @ by_signs["B"].T)
    chances = shares("A", joint.sum(1)) | shares("B", joint.sum(0))
    return {label: chance for label, chance in chances.items() if label is not None}


def _possible_records(record: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Return all records, equally probable, that agree with what is known, as arrays (R,) of COLUMNS."""
    known = {name: record[name] for name in COLUMNS if record[name] is not None} if record else {}
    values = [[known[name]] if name in known else list(COLUMNS[name]) for name in COLUMNS]
    return dict(zip(COLUMNS, map(np.ravel, np.meshgrid(*values, indexing="ij")), strict=True))


@cache
def _prior() -> dict[str, float]:
    return beliefs(None, None, 0.0)


def late_fusion(image_only: Mapping[str, float], record_only: Mapping[str, float]) -> dict[str, float]:
    """Multiply the odds of each class by its odds given the record over its prior odds."""
    fused = dict(image_only)
    for label, p in image_only.items():
        if 0 < p < 1:
            q, prior = record_only[label], _prior()[label]
            present, absent = p * q / prior, (1 - p) * (1 - q) / (1 - prior)
            fused[label] = round(present / (present + absent), 12)
    return fused


def oracle_predictions(root: str | Path, split: str, oracle: str) -> list[dict[str, Any]]:
    """Return COCO results: the drawn findings, including distractors, scored by their posterior.

    ``root`` is a folder made by ``mdf prepare synthetic``; ``oracle`` is one of :data:`ORACLES`.
    """
    root = Path(root)
    truth = read_json(root / TRUTH_FILE_NAME, DatasetError)
    data = read_json(root / "annotations" / f"{split}.json", DatasetError)
    category, signal = {c["name"]: c["id"] for c in data["categories"]}, truth["signal"]
    results = []
    for image in data["images"]:
        drawn = truth["images"][image["file_name"]]
        record = image["clinical"] | {"vitals": drawn["vitals"]}
        chances = beliefs(drawn, record if oracle == "both" else None, signal)
        if oracle == "late fusion":
            chances = late_fusion(chances, beliefs(None, record, signal))
        regions = [
            (label, f["bbox"]) for f in drawn["findings"] for label in cohort.CLASS_PRIORS[f["archetype"]] if label
        ]
        if drawn["cardiac_box"] is not None:
            regions.append((cohort.CARDIAC_CLASS, drawn["cardiac_box"]))
            chances[cohort.CARDIAC_CLASS] = 1.0
        results += [
            {"image_id": image["id"], "category_id": category[label], "bbox": box, "score": chances[label]}
            for label, box in regions
            if chances[label] > 0
        ]
    return results
