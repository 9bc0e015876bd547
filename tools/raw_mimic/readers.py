"""Readers of the images: who read what, the ellipses they drew, and how sure they were.

A reader misses findings, swaps the classes of a look-alike pair, sets edges a little off, gives an ellipse a second
label and now and then draws beyond the image.  What became of each finding is kept as truth.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mdf_detectron.data.synthetic.cohort import (
    CARDIAC_CLASS,
    CLASS_PRIORS,
    Radiograph,
    enlarged_heart_probability,
    make_findings,
)
from mdf_detectron.data.synthetic.scene import ellipse_box, heart_ellipse
from raw_mimic.history import JITTER, MISS, OFF_IMAGE, SEVERAL_LABELS, SWAP, RawSettings

LABELS_BY_PHASE = {
    1: (
        "Airway wall thickening", "Atelectasis", "Consolidation", "Emphysema", "Enlarged cardiac silhouette",
        "Fibrosis", "Fracture", "Groundglass opacity", "Mass", "Nodule", "Pleural effusion", "Pleural thickening",
        "Pneumothorax", "Pulmonary edema", "Wide mediastinum",
    ),
    2: (
        "Abnormal mediastinal contour", "Acute fracture", "Atelectasis", "Consolidation",
        "Enlarged cardiac silhouette", "Enlarged hilum", "Groundglass opacity", "Hiatal hernia",
        "High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass", "Pleural abnormality",
        "Pneumothorax", "Pulmonary edema",
    ),
}  # fmt: skip
LABELS_BY_PHASE[3] = LABELS_BY_PHASE[2]
FURTHER_LABEL = "Groundglass opacity"
"""The second label of an ellipse; it is none of the five classes."""
_PAIR = {a: [name for name in priors if name] for a, priors in CLASS_PRIORS.items()}
_CERTAINTY = (0.04, 0.08, 0.2, 0.34, 0.34)
_SEVERAL_READINGS = 0.12


@dataclass
class Reading:
    """Attributes:
    reading_id, phase, discarded: as the metadata has them.
    image: row of the history's images.
    ellipses: dicts with xmin … ymax (int pixels), certainty (1–5), labels (as the phase names them), and as truth
        label (the class after merging).
    """

    reading_id: str
    phase: int
    radiograph: int
    discarded: bool
    ellipses: list[dict] = field(default_factory=list)


def choose_radiographs(settings: RawSettings, radiographs: pd.DataFrame) -> np.ndarray:
    """Choose the rows of the images that are read: frontal ones that open a study."""
    rng = np.random.default_rng([settings.cohort.seed, 3])
    frontal = np.flatnonzero(radiographs["first"])
    return np.sort(rng.permutation(frontal)[: max(12, round(settings.read_share * len(frontal)))])


def make_scene(settings: RawSettings, radiograph: pd.Series, row: int) -> Radiograph:
    """Draw what an image shows; its classes are those of its visit."""
    rng = np.random.default_rng([settings.cohort.seed, 4, row])
    labels = {a: list(CLASS_PRIORS[a])[int(radiograph[f"label_{a}"])] for a in CLASS_PRIORS}
    findings = tuple(f for a, label in labels.items()
                     for f in make_findings(rng, a, label, settings.cohort.ambiguity))  # fmt: skip
    enlarged = rng.random() < enlarged_heart_probability(float(radiograph["age"]))
    ratio = float(rng.uniform(0.54, 0.64) if enlarged else rng.uniform(0.38, 0.47))
    return Radiograph(
        width=int(radiograph["width"]),
        height=int(radiograph["height"]),
        cardiothoracic_ratio=ratio,
        findings=findings,
        seed=int(rng.integers(2**31)),
    )


def make_readings(settings: RawSettings, rows: np.ndarray, scenes: list[Radiograph]) -> list[Reading]:
    """Make one reading per image in phase 3; several in phases 1 and 2."""
    rng = np.random.default_rng([settings.cohort.seed, 5])
    readings = []
    for row, scene in zip(rows, scenes, strict=True):
        several = rng.random() < _SEVERAL_READINGS
        phase = int(rng.integers(1, 3)) if several else 3
        for _ in range(int(rng.integers(2, 4)) if several else 1):
            reading_id = f"P{phase}{rng.integers(1, 100):02}R{len(readings):06}"
            reading = Reading(reading_id, phase, int(row), bool(rng.random() < 0.05))
            reading.ellipses = _draw_ellipses(rng, scene, phase, settings.reader_noise)
            readings.append(reading)
    return readings


def _draw_ellipses(rng: np.random.Generator, scene: Radiograph, phase: int, noise: float) -> list[dict]:
    regions = [(f.archetype, f.label, f.center, f.radii) for f in scene.findings if f.label]
    if scene.cardiothoracic_ratio > 0.5:
        regions.append((None, CARDIAC_CLASS, *heart_ellipse(scene.cardiothoracic_ratio)))
    ellipses = []
    for archetype, label, center, radii in regions:
        if rng.random() < MISS * noise:
            continue
        if archetype and rng.random() < SWAP * noise:
            label = next(name for name in _PAIR[archetype] if name != label)
        corners = _corners(rng, ellipse_box(center, radii, scene.width, scene.height), scene, noise)
        labels = _names(rng, label, phase)
        if rng.random() < SEVERAL_LABELS * noise:
            labels.append(FURTHER_LABEL)
        certainty = int(rng.choice(5, p=_CERTAINTY)) + 1
        ellipses.append(corners | {"certainty": certainty, "labels": labels, "label": label})
    return ellipses


def _corners(rng: np.random.Generator, box: list[float], scene: Radiograph, noise: float) -> dict[str, int]:
    x, y, w, h = box
    shake = rng.normal(0, JITTER / 2 * noise, size=4) * (w, h, w, h)
    corners = np.rint(np.array([x, y, x + w, y + h]) + shake).astype(int)
    limit = np.array([0, 0, scene.width, scene.height])
    sign = np.array([-1, -1, 1, 1])
    off = rng.random(4) < OFF_IMAGE * noise
    corners = np.where(off, limit + sign * rng.integers(1, 20, size=4), np.clip(corners, 0, limit[[2, 3, 2, 3]]))
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, corners), strict=True))


def _names(rng: np.random.Generator, label: str, phase: int) -> list[str]:
    """Return the class as a phase names it; phase 1 has two names for a pleural abnormality, and both may be given."""
    if phase != 1 or label != "Pleural abnormality":
        return [label]
    return [["Pleural effusion"], ["Pleural thickening"], ["Pleural effusion", "Pleural thickening"]][rng.integers(3)]
