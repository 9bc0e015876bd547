"""The chance of training in a mean over trainings, and p values of several comparisons.

Trainings that differ in their seed alone give different metrics. Cells are the trainings of one model on one fold; the
spread within cells, pooled over cells, is the chance of one training, and its mean over trainings varies accordingly.

Shapes: C cells, S trainings of a cell, M metrics, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TrainingSpread:
    """Standard deviation of a metric between trainings that differ in their seed.

    Attributes:
        std: (M,).
        freedom: degrees of freedom, Σ (S - 1) over the cells; less where these are not independent.
    """

    std: np.ndarray
    freedom: float

    def of_mean(self, count: float) -> TrainingSpread:
        """Return the standard error of a mean over ``count`` trainings (of a difference: 1 / (1 / a + 1 / b))."""
        return TrainingSpread(self.std / np.sqrt(count), self.freedom)

    def add(self, samples: np.ndarray, seed: int = 0) -> np.ndarray:
        """Add to (R, M) bootstrap samples a draw of the chance of training each, Student's t with ``freedom``."""
        noise = np.random.default_rng([seed, 2]).standard_t(self.freedom, size=samples.shape)
        return samples + noise * self.std


def pooled_spread(cells: Sequence[np.ndarray]) -> TrainingSpread | None:
    """Pool the variance within cells.

    Args:
        cells: (S, M) each; one with an undefined value is left out.

    Returns:
        None where no cell has two trainings: the chance of training cannot be told.
    """
    several = [np.asarray(cell, dtype=np.float64) for cell in cells if len(cell) >= 2 and np.isfinite(cell).all()]
    if not several:
        return None
    squares = [((cell - cell.mean(axis=0)) ** 2).sum(axis=0) for cell in several]
    freedom = sum(len(cell) - 1 for cell in several)
    return TrainingSpread(np.sqrt(np.sum(squares, axis=0) / freedom), freedom)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p values for their number by Holm's step-down method (1979): the family-wise error is kept.

    Args:
        p_values: NaN for a comparison that was not made, which counts for nothing.

    Returns:
        corrected p values, at most 1, in the given order.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(p_values), np.nan)
    made = np.flatnonzero(np.isfinite(p_values))
    order = made[np.argsort(p_values[made], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return corrected
