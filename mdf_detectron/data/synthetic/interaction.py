"""Let the record decide what an image means: interactions that no update by the record alone can follow.

With interaction I, a share I of the findings carries three signs instead of a look of its class:

- look: a bright core or a dark slit. In women, a core means the first class of an archetype (Consolidation, Pulmonary
  edema) and a slit the second (Atelectasis, Pleural abnormality); in men, the reverse. Nothing is mostly a core.
- site: lateral or medial, with the same meaning, less strictly.
- contrast: faint or plain. A faint finding is nothing, unless its patient is acutely ill (acuity 1 or 2).

Neither look and site alone nor sex and acuity alone tell the two classes of an archetype apart. The vitals do, alone,
shifted by λ·(1 − I/2).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

SIGNS = ("core", "lateral", "faint")
COLUMNS = {"gender": "FM", "acuity": range(1, 6)}
"""The columns that decide, and their values, all equally frequent and independent."""

LATERAL_SHIFT = 0.3
"""Share by which a lateral finding lies farther from the midline."""


def sign_chances(record: Mapping[str, Any]) -> np.ndarray:
    """Return P(sign | class, record) as (3, 3, R): classes of either archetype ("nothing" last), SIGNS, records.

    ``record`` maps COLUMNS to arrays (R,).
    """
    female, ill = np.asarray(record["gender"]) == "F", np.asarray(record["acuity"]) <= 2
    look, site, ones = 0.03 + 0.94 * female, 0.1 + 0.8 * female, np.ones(len(ill))
    real, nothing = np.where(ill, 0.45, 0.05), np.where(ill, 0.5, 0.9)
    return np.array([[look, site, real], [1 - look, 1 - site, real], [0.85 * ones, 0.5 * ones, nothing]])


def sign_likelihood(signs: tuple[bool, ...], record: Mapping[str, Any]) -> np.ndarray:
    """Return P(these signs | class, record) as (3, R)."""
    chances = sign_chances(record)
    return np.where(np.array(signs)[:, None], chances, 1 - chances).prod(axis=1)


def draw_signs(rng: np.random.Generator, label: int, record: Mapping[str, Any]) -> tuple[bool, ...]:
    """Draw the signs of a finding by the position of its class in its archetype (2: nothing)."""
    chances = sign_chances({name: [record[name]] for name in COLUMNS})[label, :, 0]
    return tuple(bool(drawn) for drawn in rng.random(len(SIGNS)) < chances)
