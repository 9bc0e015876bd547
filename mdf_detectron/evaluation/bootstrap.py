"""How sure a metric is: patient-level bootstrap, a paired test of two models, and intervals over seeds.

Images of one patient are alike, so patients are drawn, each with all their images.  A resample is a weighting of the
images; metrics are worked out from the matches by these weights, nothing is matched again.

Shapes: I images, P patients, R resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mdf_detectron.evaluation.ground_truth import GroundTruth

LEVEL = 0.95
NUM_RESAMPLES = 1000

Statistic = Callable[[np.ndarray], np.ndarray]
"""(B, I) weights of the images → (B, M) metrics."""


@dataclass(frozen=True)
class PairedTest:
    """Metrics of model B minus those of model A, on the same images.

    Attributes:
        difference, low, high: (M,) difference and its interval.
        p_value: (M,) two-sided, from the same resamples as the interval: small where the interval leaves out 0.
    """

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray


def patients_of(ground_truth: GroundTruth) -> np.ndarray:
    """(I,) int64 number of each image's patient, from ``patient_id``; an image without one is a patient of its own."""
    keys = [("patient", str(i["patient_id"])) if i.get("patient_id") is not None else ("image", str(i["id"]))
            for i in ground_truth.images]  # fmt: skip
    numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def resample_weights(patients: np.ndarray, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(R, I) weights: how often each image's patient was drawn in P draws with replacement."""
    num_patients = int(patients.max(initial=-1)) + 1
    if num_patients == 0:
        return np.zeros((num_resamples, 0))
    return rng.multinomial(num_patients, np.full(num_patients, 1 / num_patients), size=num_resamples)[:, patients]


def bootstrap(
    statistic: Statistic, patients: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0, chunk: int = 50
) -> np.ndarray:
    """Metrics of resampled datasets.

    The same ``patients``, ``num_resamples`` and ``seed`` give the same resamples, whatever the statistic and the chunk.

    Args:
        statistic: see :data:`Statistic`.
        patients: (I,) as of :func:`patients_of`.
        chunk: resamples worked on at a time; a matter of memory only.

    Returns:
        (R, M); NaN where a resample has no ground truth for a metric.
    """
    rng = np.random.default_rng(seed)
    parts = [
        statistic(resample_weights(patients, min(chunk, num_resamples - begin), rng).astype(np.float64))
        for begin in range(0, num_resamples, chunk)
    ]
    return np.concatenate(parts)


def corrected(samples: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Resampled metrics, moved so that the bias of the metric cancels.

    AP is too high on small test sets, because its precision envelope picks the luckiest points, and higher still on
    resamples of them.  What a resample has on average above the value, the value is taken to have above the truth.

    Args:
        samples: (R, M); values: (M,) of the whole dataset.

    Returns:
        (R, M) samples around value - bias, bias = mean of the samples - value.
    """
    defined = np.isfinite(samples)
    count = np.maximum(defined.sum(axis=0), 1)
    bias = np.where(defined, samples - values, 0.0).sum(axis=0) / count
    return samples - 2 * np.nan_to_num(bias)


def interval(
    samples: np.ndarray, values: np.ndarray, level: float = LEVEL, bounds: tuple[float, float] = (0.0, np.inf)
) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected percentile interval; it always holds the value.

    Args:
        samples: (R, M) of :func:`bootstrap`; undefined ones are left out.
        values: (M,) of the whole dataset.
        bounds: range that the metrics cannot leave.

    Returns:
        Low and high end, (M,) each; NaN where the value or every sample is undefined.
    """
    values = np.asarray(values, dtype=np.float64)
    low, high = np.full(len(values), np.nan), np.full(len(values), np.nan)
    for m, column in enumerate(corrected(samples, values).T):
        defined = column[np.isfinite(column)]
        if len(defined) and np.isfinite(values[m]):
            ends = np.clip(np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]), *bounds)
            low[m], high[m] = min(ends[0], values[m]), max(ends[1], values[m])
    return low, high


def paired_test(
    statistic_a: Statistic,
    statistic_b: Statistic,
    patients: np.ndarray,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> PairedTest:
    """Is B better than A?  Both are scored on the same resampled patients, so what they share cancels out."""
    whole = np.ones((1, len(patients)))
    difference = (statistic_b(whole) - statistic_a(whole))[0]
    samples = bootstrap(lambda w: statistic_b(w) - statistic_a(w), patients, num_resamples, seed)
    low, high = interval(samples, difference, level, bounds=(-np.inf, np.inf))
    return PairedTest(difference, low, high, _two_sided_p(corrected(samples, difference)))


def _two_sided_p(samples: np.ndarray) -> np.ndarray:
    """(M,) twice the share of resamples on the far side of 0, ties by half, never 0: one more than seen is assumed."""
    defined = np.isfinite(samples)
    count = defined.sum(axis=0)
    ties = 0.5 * (defined & (samples == 0)).sum(axis=0)
    below = (defined & (samples < 0)).sum(axis=0) + ties
    above = (defined & (samples > 0)).sum(axis=0) + ties
    p_value = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (count + 1))
    return np.where(count > 0, p_value, np.nan)


def mean_over_seeds(values: Sequence[float], level: float = LEVEL) -> dict[str, float]:
    """Mean over runs with different seeds, its standard deviation and Student's t interval.

    Args:
        values: one metric of S runs.

    Returns:
        ``{"mean", "std", "low", "high", "runs"}``; spread and interval are NaN for a single run.

    Raises:
        ValueError: no values.
    """
    from scipy import stats

    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no runs to average")
    mean = float(array.mean())
    if array.size == 1:
        return {"mean": mean, "std": np.nan, "low": np.nan, "high": np.nan, "runs": 1}
    std = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, array.size - 1)) * std / np.sqrt(array.size)
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half, "runs": int(array.size)}
