"""The best that any detector can do on the synthetic cohort, with and without the table.

The generating process is known, so the posterior of every finding's class is: P(y | look) without the table,
P(y | look, vitals) with it.  :func:`oracle_predictions` scores the drawn findings by it, for the real evaluator;
:func:`ap_image` and :func:`ap_both` are the closed forms for one archetype of two classes and perfect boxes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

from mdf_detectron.data.synthetic.cohort import CARDIAC_CLASS, CLASS_PRIORS, CLASS_SHIFTS, vital_correlation
from mdf_detectron.errors import DatasetError
from mdf_detectron.fileio import read_json

TRUTH_FILE_NAME = "oracle_truth.json"


@dataclass(frozen=True)
class Reading:
    """How a detector weighs look and vitals: by default as the process that made them does, which is best.

    Attributes:
        look_doubt: P(a clear look | another class of the archetype) over P(the look | its own class), in [0, 1]; the
            process has 0, and 1 ignores which class a look tells.
        record_weight: power of the vitals' likelihood, at least 0; 1 is right, 0 ignores the vitals.
    """

    look_doubt: float = 0.0
    record_weight: float = 1.0


RIGHT_READING = Reading()


def mahalanobis_distance(archetype: str, first: str, second: str, signal: float) -> float:
    """Return d between the vitals of two classes of an archetype, in units of their common spread."""
    shifts = CLASS_SHIFTS[archetype]
    difference = signal * (np.array(shifts[first]) - np.array(shifts[second]))
    return float(np.sqrt(difference @ np.linalg.solve(vital_correlation(), difference)))


def ap_image(ambiguity: float, prior: float) -> float:
    """Return the AP of a class of prior π from the look alone: a share 1 − α is certain, the rest is ranked by chance.

    (1−α) + πα + (1−α)π(1−π)·ln(1 + α/((1−α)π)), and π at α = 1.
    """
    if ambiguity == 1:
        return prior
    certain = 1 - ambiguity
    return certain + prior * ambiguity + certain * prior * (1 - prior) * math.log(1 + ambiguity / (certain * prior))


def ap_both(ambiguity: float, prior: float, distance: float) -> float:
    """Return the AP of a class of prior π from the look and the vitals, ``distance`` (d) apart.

    (1−α) + α·∫₀¹ π(1−α+αr) / [π(1−α+αr) + α(1−π)·Φ(Φ⁻¹(r) − d)] dr.
    """

    def precision(recall: float) -> float:
        right = prior * (1 - ambiguity + ambiguity * recall)
        wrong = ambiguity * (1 - prior) * norm.cdf(norm.ppf(recall) - distance)
        return right / (right + wrong)

    return (1 - ambiguity) + ambiguity * quad(precision, 0, 1, limit=200)[0]


def posteriors(
    appearances: dict[str, str], vitals: list[float] | None, signal: float, reading: Reading = RIGHT_READING
) -> dict[str, dict[str | None, float]]:
    """Return P(class | everything known) of both archetypes of an image, by enumerating their joint classes.

    Args:
        appearances: look of archetypes "A" and "B": a class, "none" or "ambiguous".
        vitals: (6,) in SD units, NaN where one is missing, or None where all are missing or not to be used.
        signal: λ.
        reading: the weights of look and vitals.
    """
    observed = np.isfinite(np.array(vitals, dtype=float)) if vitals is not None else np.zeros(6, dtype=bool)
    precision = np.linalg.inv(vital_correlation()[np.ix_(observed, observed)])  # missing ones are integrated out
    joint = {}
    for label_a, label_b in itertools.product(CLASS_PRIORS["A"], CLASS_PRIORS["B"]):
        labels = {"A": label_a, "B": label_b}
        weight = CLASS_PRIORS["A"][label_a] * CLASS_PRIORS["B"][label_b]
        weight *= math.prod(_look_likelihood(look, labels[a], reading) for a, look in appearances.items())
        if not weight:
            continue
        if observed.any():
            mean = signal * (np.array(CLASS_SHIFTS["A"][label_a]) + np.array(CLASS_SHIFTS["B"][label_b]))
            offset = (np.array(vitals, dtype=float) - mean)[observed]
            weight *= math.exp(-0.5 * reading.record_weight * offset @ precision @ offset)
        joint[label_a, label_b] = weight
    total = sum(joint.values())
    return {
        archetype: {
            # rounded: chances that are equal must tie, and not be ranked by the last digits of their computation
            label: round(sum(w for labels, w in joint.items() if labels[position] == label) / total, 12)
            for label in CLASS_PRIORS[archetype]
        }
        for position, archetype in enumerate("AB")
    }


def _look_likelihood(look: str, label: str | None, reading: Reading) -> float:
    """Return P(look | label), up to a factor that all labels share."""
    if look in ("ambiguous", label or "none"):
        return 1.0
    return reading.look_doubt if label is not None and look != "none" else 0.0


def oracle_predictions(root: str | Path, split: str, use_table: bool) -> list[dict[str, Any]]:
    """Make predictions in COCO results format: the drawn findings, distractors too, scored by their posterior.

    Args:
        root: a folder made by ``mdf prepare synthetic``.
        split: "train", "val" or "test".
        use_table: whether the vitals are known.
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
