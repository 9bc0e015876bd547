"""Is one model better than another on the same images?

Shapes: I images, P patients, R resamples, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdf_detectron.evaluation.bootstrap import (
    LEVEL,
    NUM_RESAMPLES,
    Statistic,
    alpha_of_tail,
    bootstrap,
    interval,
)


@dataclass(frozen=True)
class PairedTest:
    """Metrics of model B minus those of model A, on the same images.

    Attributes:
        difference, low, high: (M,) difference and its interval.
        p_value: (M,) two-sided, from the same resamples as the interval: small where the interval leaves out 0.
        least_p: (M,) the smallest p value that so many resamples can give.
    """

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    least_p: np.ndarray


def paired_test(
    statistic_a: Statistic,
    statistic_b: Statistic,
    patients: np.ndarray,
    num_patients: int | np.ndarray,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> PairedTest:
    """Score both models on the same resampled patients, so that what they share cancels out.

    The bias of small test sets is much the same in both models; it is left in, as its estimate would add more noise to
    the difference than it takes away (tools/simulate_intervals.py).

    Args:
        patients, num_patients: see :func:`~mdf_detectron.evaluation.bootstrap.metric_intervals`.
    """
    whole = np.ones((1, len(patients)))
    difference = (statistic_b(whole) - statistic_a(whole))[0]
    counts = np.broadcast_to(num_patients, len(difference))
    samples = bootstrap(lambda w: statistic_b(w) - statistic_a(w), patients, num_resamples, seed)
    low, high = interval(samples, difference, counts, level=level, bounds=(-np.inf, np.inf))
    p_value = _two_sided_p(samples, counts)
    return PairedTest(difference, low, high, p_value, _alpha(np.full(len(counts), 1 / (num_resamples + 1)), counts))


def _two_sided_p(samples: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(M,) from the share of resamples at 0 or on its far side; never 0, as one more than seen is assumed."""
    defined = np.isfinite(samples)
    total = defined.sum(axis=0)
    below = (defined & (samples <= 0)).sum(axis=0)
    above = (defined & (samples >= 0)).sum(axis=0)
    tail = np.minimum(0.5, (np.minimum(below, above) + 1) / (total + 1))
    return np.where(total > 0, _alpha(tail, counts), np.nan)


def _alpha(tail: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(M,) two-sided error of leaving out the share ``tail`` at each end; NaN for fewer than 2 patients."""
    enough = counts >= 2
    return np.where(enough, alpha_of_tail(tail, np.where(enough, counts, 2)), np.nan)
