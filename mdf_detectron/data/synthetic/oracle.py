"""Compute the best possible detections on the synthetic cohort, with and without the clinical record.

The generating process is known, so the class posterior of each finding is P(y | look) without the record and
P(y | look, vitals) with it. :func:`oracle_predictions` scores the drawn findings by it, for the usual evaluator.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.synthetic.cohort import CARDIAC_CLASS, CLASS_PRIORS, CLASS_SHIFTS, vital_correlation
from mdf_detectron.errors import DatasetError
from mdf_detectron.fileio import read_json

TRUTH_FILE_NAME = "oracle_truth.json"


def posteriors(
    appearances: dict[str, str], vitals: list[float] | None, signal: float
) -> dict[str, dict[str | None, float]]:
    """Return P(class | everything known) for both archetypes of an image by enumerating their joint classes.

    Args:
        appearances: look of archetypes "A" and "B": a class, "none" or "ambiguous".
        vitals: (6,) in SD units, NaN where missing; None if all are missing or unused.
        signal: λ.
    """
    observed = np.isfinite(np.array(vitals, dtype=float)) if vitals is not None else np.zeros(6, dtype=bool)
    precision = np.linalg.inv(vital_correlation()[np.ix_(observed, observed)])  # missing vitals are integrated out
    joint = {}
    for label_a, label_b in itertools.product(CLASS_PRIORS["A"], CLASS_PRIORS["B"]):
        labels = {"A": label_a, "B": label_b}
        weight = CLASS_PRIORS["A"][label_a] * CLASS_PRIORS["B"][label_b]
        weight *= all(_is_possible(look, labels[a]) for a, look in appearances.items())
        if not weight:
            continue
        if observed.any():
            mean = signal * (np.array(CLASS_SHIFTS["A"][label_a]) + np.array(CLASS_SHIFTS["B"][label_b]))
            offset = (np.array(vitals, dtype=float) - mean)[observed]
            weight *= math.exp(-0.5 * offset @ precision @ offset)
        joint[label_a, label_b] = weight
    total = sum(joint.values())
    return {
        archetype: {
            # rounded so that equal probabilities tie despite floating-point error
            label: round(sum(w for labels, w in joint.items() if labels[position] == label) / total, 12)
            for label in CLASS_PRIORS[archetype]
        }
        for position, archetype in enumerate("AB")
    }


def _is_possible(look: str, label: str | None) -> bool:
    """Tell whether a finding of this class can look like this."""
    return look in ("ambiguous", label or "none")


def oracle_predictions(root: str | Path, split: str, use_table: bool) -> list[dict[str, Any]]:
    """Return COCO results: the drawn findings, including distractors, scored by their posterior.

    ``root`` is a folder made by ``mdf prepare synthetic``; ``use_table`` conditions on the vitals.
    """
    root = Path(root)
    truth = read_json(root / TRUTH_FILE_NAME, DatasetError)
    data = read_json(root / "annotations" / f"{split}.json", DatasetError)
    category = {c["name"]: c["id"] for c in data["categories"]}
    results = []
    for image in data["images"]:
        radiograph = truth["images"][image["file_name"]]
        looks = {f["archetype"]: f["appearance"] for f in radiograph["findings"]}
        chances = posteriors(looks, radiograph["vitals"] if use_table else None, truth["signal"])
        scored = [
            (label, f["bbox"], chance)
            for f in radiograph["findings"]
            for label, chance in chances[f["archetype"]].items()
            if label is not None and chance > 0
        ]
        if radiograph["cardiac_box"] is not None:
            scored.append((CARDIAC_CLASS, radiograph["cardiac_box"], 1.0))
        results += [
            {"image_id": image["id"], "category_id": category[label], "bbox": box, "score": chance}
            for label, box, chance in scored
        ]
    return results
