"""Generate a synthetic cohort in which the clinical record distinguishes classes that look alike.

Every image shows two archetypes of findings: A, a focal opacity (Consolidation, Atelectasis or nothing), and B, a
hazy opacity (Pulmonary edema, Pleural abnormality or nothing). With probability 1 − α a visual cue shows the class;
otherwise all three look the same, and only the vitals, shifted by λ·(Δ_A + Δ_B) standard deviations, distinguish
them. "Nothing" is drawn too, as a distractor without annotation. The image alone determines the cardiac silhouette.

No value is sampled from a real table.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from mdf_detectron.data.synthetic.interaction import COLUMNS, LATERAL_SHIFT, draw_signs
from mdf_detectron.errors import SourceDataError

VITALS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")
VITAL_MEANS = np.array([98.1, 85.7, 18.5, 97.6, 132.3, 72.4])
VITAL_SDS = np.array([1.0, 16.0, 2.5, 1.2, 20.0, 12.0])
"""°F, /min, /min, %, mmHg, mmHg."""

# Shift of the vitals in SD units, in the order of VITALS, for each archetype and class; None is "nothing".
CLASS_SHIFTS: dict[str, dict[str | None, tuple[float, ...]]] = {
    "A": {
        "Consolidation": (1.4, 0.8, 0.9, -0.7, -0.2, -0.1),
        "Atelectasis": (0.0, 0.0, 0.2, -0.1, 0.0, 0.0),
        None: (0.0,) * 6,
    },
    "B": {
        "Pulmonary edema": (0.0, 0.3, 1.2, -1.1, 1.0, 0.5),
        "Pleural abnormality": (0.3, 0.1, 0.3, -0.2, -0.3, -0.3),
        None: (0.0,) * 6,
    },
}
CLASS_PRIORS: dict[str, dict[str | None, float]] = {
    "A": {"Consolidation": 0.34, "Atelectasis": 0.43, None: 0.23},
    "B": {"Pulmonary edema": 0.30, "Pleural abnormality": 0.47, None: 0.23},
}
CARDIAC_CLASS = "Enlarged cardiac silhouette"
FIRST_SUBJECT_ID = 90_000_000
"""Larger than the ids of any real release."""

_CORRELATIONS = {
    ("sbp", "dbp"): 0.44,
    ("temperature", "heartrate"): 0.17,
    ("resprate", "o2sat"): -0.17,
    ("heartrate", "resprate"): 0.11,
    ("heartrate", "sbp"): -0.09,
    ("heartrate", "dbp"): 0.08,
    ("o2sat", "sbp"): 0.06,
    ("temperature", "sbp"): -0.05,
    ("temperature", "o2sat"): -0.04,
    ("temperature", "resprate"): 0.03,
}


def vital_correlation() -> np.ndarray:
    """Return R, the (6, 6) correlation of the vitals within a class."""
    matrix = np.eye(len(VITALS))
    for (a, b), value in _CORRELATIONS.items():
        i, j = VITALS.index(a), VITALS.index(b)
        matrix[i, j] = matrix[j, i] = value
    return matrix


@dataclass(frozen=True)
class Finding:
    """A drawn finding.

    Attributes:
        archetype: "A" or "B".
        label: class, or None for a distractor.
        appearance: the class that it looks like ("none": visibly harmless), or "ambiguous".
        center, radii: of its ellipse, as fractions of the image's width and height (x, y).
        signs: whether it has each of :data:`mdf_detectron.data.synthetic.interaction.SIGNS`; None without interaction.
    """

    archetype: str
    label: str | None
    appearance: str
    center: tuple[float, float]
    radii: tuple[float, float]
    signs: tuple[bool, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Radiograph:
    """What is drawn on an image, distractors included; ``seed`` determines noise and anatomy.

    ``cardiothoracic_ratio`` is heart width over thorax width; above 0.5 the silhouette is enlarged.
    """

    width: int
    height: int
    cardiothoracic_ratio: float
    findings: tuple[Finding, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Visit(Radiograph):
    """A visit and its one image.

    Attributes:
        latent_vitals: (6,) SD units, before rounding; only the oracle reads them.
        row: the clinical record as in a cleaned table (None where missing).
    """

    visit_id: int
    latent_vitals: tuple[float, ...]
    row: dict[str, float | str | None]
    vitals_missing: bool


@dataclass(frozen=True)
class Patient:
    subject_id: int
    gender: str
    age: int
    visits: tuple[Visit, ...] = field(default=())


@dataclass(frozen=True)
class CohortSettings:
    """Parameters of the generator.

    Attributes:
        seed: determines everything.
        signal: λ ≥ 0, distance of the classes' vitals; 0 makes the record useless.
        ambiguity: α in [0, 1], share of findings without a visual cue.
        image_size: longer side of an image in pixels.
        missing: share of visits without vitals.
        interaction: in [0, 1]; how much the record decides what an image means.
    """

    num_patients: int
    seed: int
    signal: float = 1.0
    ambiguity: float = 0.8
    image_size: int = 512
    missing: float = 0.10
    interaction: float = 0.0

    def __post_init__(self) -> None:
        if self.num_patients < 3:
            raise SourceDataError(f"num_patients must be at least 3 (one per split), got {self.num_patients}")
        if not 0 <= self.ambiguity <= 1 or not 0 <= self.missing <= 1:
            raise SourceDataError(f"ambiguity and missing are shares in [0, 1], got {self.ambiguity}, {self.missing}")
        if not 0 <= self.interaction <= 1:
            raise SourceDataError(f"interaction must be in [0, 1], got {self.interaction}")
        if not (self.signal >= 0 and math.isfinite(self.signal)):
            raise SourceDataError(f"signal must be a finite number of at least 0, got {self.signal}")
        if self.image_size < 64:
            raise SourceDataError(f"image_size must be at least 64 pixels, got {self.image_size}")

    @property
    def vitals_signal(self) -> float:
        """Distance of the classes' vitals: the interaction takes over half of what they tell."""
        return self.signal * (1 - self.interaction / 2)


def make_cohort(settings: CohortSettings) -> list[Patient]:
    """Draw all patients, each from its own random stream (patient k is the same in every larger cohort)."""
    return [_make_patient(settings, number) for number in range(settings.num_patients)]


def _make_patient(settings: CohortSettings, number: int) -> Patient:
    rng = np.random.default_rng([settings.seed, number])
    gender = "FM"[int(rng.integers(2))]
    age = int(rng.integers(20, 90))
    # 1 + negative binomial visits, 1.5 on average
    visits = tuple(
        _make_visit(settings, rng, visit_id=number * 100 + k, age=age, gender=gender)
        for k in range(1 + min(int(rng.negative_binomial(1, 0.67)), 8))
    )
    return Patient(FIRST_SUBJECT_ID + number, gender, age, visits)


def _make_visit(settings: CohortSettings, rng: np.random.Generator, visit_id: int, age: int, gender: str) -> Visit:
    labels = {a: list(priors)[int(rng.choice(3, p=list(priors.values())))] for a, priors in CLASS_PRIORS.items()}
    findings = tuple(f for a in ("A", "B") for f in make_findings(rng, a, labels[a], settings.ambiguity))
    shift = sum(np.array(CLASS_SHIFTS[a][labels[a]]) for a in ("A", "B"))
    latent = settings.vitals_signal * shift + rng.multivariate_normal(np.zeros(6), vital_correlation())
    missing = bool(rng.random() < settings.missing)
    enlarged = rng.random() < enlarged_heart_probability(age)
    short_side = int(round(settings.image_size * rng.uniform(0.82, 0.98)))
    sides = [settings.image_size, short_side]
    width, height = sides if rng.random() < 0.3 else sides[::-1]
    visit = Visit(
        visit_id=visit_id,
        width=width,
        height=height,
        cardiothoracic_ratio=float(rng.uniform(0.54, 0.64) if enlarged else rng.uniform(0.38, 0.47)),
        findings=findings,
        latent_vitals=tuple(float(v) for v in latent),
        row=_make_row(rng, latent, missing, age, gender),
        vitals_missing=missing,
        seed=int(rng.integers(2**31)),
    )
    return _with_interaction(settings, visit, labels) if settings.interaction else visit


def _with_interaction(settings: CohortSettings, visit: Visit, labels: dict[str, str | None]) -> Visit:
    """Give a share of the findings signs, drawn from a stream of their own; all else stays."""
    rng = np.random.default_rng([settings.seed, visit.visit_id, 1])
    record = {name: visit.row[name] for name in COLUMNS}
    for name, values in COLUMNS.items():  # a missing value has its effect too
        record[name] = rng.choice(values) if record[name] is None else record[name]
    signs = {
        a: draw_signs(rng, list(CLASS_PRIORS[a]).index(labels[a]), record)
        for a in ("A", "B")
        if rng.random() < settings.interaction
    }
    return replace(visit, findings=tuple(_with_signs(f, signs.get(f.archetype)) for f in visit.findings))


def _with_signs(finding: Finding, signs: tuple[bool, ...] | None) -> Finding:
    if signs is None:
        return finding
    x, y = finding.center
    _, lateral, _ = signs
    x = 0.5 + (x - 0.5) * (1 + LATERAL_SHIFT * lateral)
    return replace(finding, appearance="ambiguous", center=(x, y), signs=signs)


def enlarged_heart_probability(age: float) -> float:
    """Return P(enlarged silhouette) at an age in years: logit P = −3.2 + 0.03·age."""
    return 1 / (1 + math.exp(3.2 - 0.03 * age))


def make_findings(rng: np.random.Generator, archetype: str, label: str | None, ambiguity: float) -> Iterator[Finding]:
    """Draw one or two findings (one per lung) of an archetype, with the same class and appearance."""
    appearance = "ambiguous" if rng.random() < ambiguity else (label or "none")
    sides = [0.30, 0.70] if rng.random() < 0.35 else [float(rng.choice([0.30, 0.70]))]
    for x in sides:
        if archetype == "A":
            center = x + rng.uniform(-0.03, 0.03), rng.uniform(0.26, 0.40)
            radii = rng.uniform(0.075, 0.105), rng.uniform(0.065, 0.095)
        else:
            center = x + rng.uniform(-0.02, 0.02), rng.uniform(0.63, 0.70)
            radii = rng.uniform(0.115, 0.145), rng.uniform(0.10, 0.13)
        yield Finding(archetype, label, appearance, tuple(map(float, center)), tuple(map(float, radii)))


def _make_row(rng: np.random.Generator, latent: np.ndarray, missing: bool, age: int, gender: str) -> dict:
    values = VITAL_MEANS + VITAL_SDS * latent
    limits = {"o2sat": (50.0, 100.0), "resprate": (4.0, 60.0), "heartrate": (20.0, 250.0)}
    row: dict[str, float | str | None] = {"age": float(age)}
    for name, value in zip(VITALS, values, strict=True):
        low, high = limits.get(name, (10.0, 300.0))
        rounded = round(float(np.clip(value, low, high)), 1 if name == "temperature" else 0)
        row[name] = None if missing else rounded
    if not missing and row["dbp"] >= row["sbp"]:
        row["dbp"] = row["sbp"] = None
    pain, acuity = float(rng.integers(0, 11)), float(rng.integers(1, 6))
    return row | {"pain": None if missing else pain, "acuity": None if missing else acuity, "gender": gender}
