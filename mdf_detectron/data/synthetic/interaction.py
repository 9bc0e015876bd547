"""Let the record decide what an image means: interactions that no update by the record alone can follow.

With interaction I, a share I of the ambiguous findings carry three signs, each with the opposite meaning in another
record:

- look: a bright core or a dark slit. With much pain, a core means Consolidation and a slit Atelectasis; with little,
  the reverse, smoothly around 5. In women, a core means Pulmonary edema and a slit Pleural abnormality; in men, the
  reverse.
- site: lateral or medial. In women, Consolidation is mostly lateral and Atelectasis medial; in men, the reverse. With
  much pain, Pulmonary edema is mostly lateral and Pleural abnormality medial; with little, the reverse.
- contrast: faint or plain. In the acutely ill (acuity 1 or 2), a faint finding is real; in others, an artifact.

The normal size of the heart grows with age and is larger in men. No sign alone tells the class of a finding, nor do
pain, acuity, age and sex alone; only both together. The vitals tell it by themselves, shifted by λ·(1 − I/2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SIGNS = ("core", "lateral", "faint")
COLUMNS = {"age": range(20, 90), "gender": "FM", "pain": range(11), "acuity": range(1, 6)}
"""The columns that decide, and their values, all equally frequent and independent."""

LATERAL_SHIFT = 0.25
"""Share by which a finding lies farther from the midline (lateral) or nearer to it (medial)."""

_TURNING_PAIN, _TURNING_WIDTH = 5.0, 0.7


def sign_chances(archetype: str, record: Mapping[str, Any]) -> np.ndarray:
    """Return P(sign | class, record) as (3, 3, R): classes of the archetype ("nothing" last), SIGNS, records.

    ``record`` maps COLUMNS to arrays (R,).
    """
    pain = 1 / (1 + np.exp((_TURNING_PAIN - np.asarray(record["pain"])) / _TURNING_WIDTH))
    female = 1.0 * (np.asarray(record["gender"]) == "F")
    look, site = (pain, female) if archetype == "A" else (female, pain)
    look, site = 0.02 + 0.96 * look, 0.2 + 0.6 * site
    ill, half = np.asarray(record["acuity"]) <= 2, np.full(len(pain), 0.5)
    real, artifact = np.where(ill, 0.5, 0.05), np.where(ill, 0.05, 0.5)
    return np.array([[look, site, real], [1 - look, 1 - site, real], [half, half, artifact]])


def sign_likelihood(archetype: str, signs: tuple[bool, ...], record: Mapping[str, Any]) -> np.ndarray:
    """Return P(these signs | class, record) as (3, R)."""
    chances = sign_chances(archetype, record)
    return np.where(np.array(signs)[:, None], chances, 1 - chances).prod(axis=1)


def draw_signs(rng: np.random.Generator, archetype: str, label: int, record: Mapping[str, Any]) -> tuple[bool, ...]:
    """Draw the signs of a finding by the position of its class in its archetype (2: nothing)."""
    chances = sign_chances(archetype, {name: [record[name]] for name in COLUMNS})[label, :, 0]
    return tuple(bool(drawn) for drawn in rng.random(len(SIGNS)) < chances)


def heart_growth(record: Mapping[str, Any]) -> np.ndarray:
    """Return by how much the normal cardiothoracic ratio exceeds that of the mean patient, for arrays of COLUMNS."""
    return 0.10 * (np.asarray(record["age"]) - 54.5) / 35 + np.where(np.asarray(record["gender"]) == "F", -0.01, 0.01)
