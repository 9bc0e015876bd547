"""Patient-level bootstrap intervals and the paired bootstrap test.

Images of one patient are correlated, so patients are drawn with all their images. A resample is a weighting of the
images, for which metrics are computed from the same matches.

Shapes: I images, P patients, R resamples, M metrics, B weightings. ``num_patients`` is the number of patients on which
a metric depends (those with a ground-truth box): one number or (M,). ``training`` is the spread of the metrics, or of
their difference, between training seeds; None leaves it out, and results then cover only these trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from mdf_detectron.evaluation.coco import GroundTruth
from mdf_detectron.evaluation.matching import mean_of_defined

LEVEL = 0.95

NUM_RESAMPLES = 1000

NUM_SPLITS = 50
"""Random divisions of the patients into halves, for :func:`small_sample_bias`."""

BIAS_PER_HALVING = 2.0
"""Ratio of a test set's bias to the bias that halving it adds, see :func:`small_sample_bias`."""

BIAS_NOISE = 0.25
"""Standard error of that bias over the metric's, from simulated test sets of 60 and 150 images."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""(B, I) weights of the images → (B, M) metrics."""


def patients_of(ground_truth: GroundTruth) -> np.ndarray:
    """Number each image's patient by ``patient_id``: (I,) int64; an image without one is a patient of its own."""
    keys = [("patient", str(i["patient_id"])) if i.get("patient_id") is not None else ("image", str(i["id"]))
            for i in ground_truth.images]  # fmt: skip
    numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def resample_weights(patients: np.ndarray, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw P patients with replacement, R times: (R, I) weights count how often each image's patient was drawn."""
    num_patients = count_patients(patients)
    if num_patients == 0:
        return np.zeros((num_resamples, 0))
    return rng.multinomial(num_patients, np.full(num_patients, 1 / num_patients), size=num_resamples)[:, patients]


def half_weights(patients: np.ndarray, num_splits: int, rng: np.random.Generator) -> np.ndarray:
    """Divide the patients into halves at random, S times: (2 S, I) weights 0 or 1, first halves first."""
    num_patients = count_patients(patients)
    second = np.array([rng.permutation(num_patients) % 2 for _ in range(num_splits)]).reshape(num_splits, -1)
    return np.concatenate([1 - second, second])[:, patients]


def count_patients(patients: np.ndarray) -> int:
    """Return P of (I,) patient numbers 0 … P - 1."""
    return int(patients.max(initial=-1)) + 1


def bootstrap(
    statistic: Statistic, patients: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0, chunk: int = 50
) -> np.ndarray:
    """Compute the metrics of resampled datasets.

    The same ``patients``, ``num_resamples`` and ``seed`` give the same resamples for any statistic; ``chunk`` of them
    are computed at a time.

    Returns:
        (R, M); NaN where a resample has no ground truth for a metric.
    """
    rng = np.random.default_rng(seed)
    parts = [
        statistic(resample_weights(patients, min(chunk, num_resamples - begin), rng).astype(np.float64))
        for begin in range(0, num_resamples, chunk)
    ]
    return np.concatenate(parts)


def small_sample_bias(
    statistic: Statistic, patients: np.ndarray, values: np.ndarray, num_splits: int = NUM_SPLITS, seed: int = 0
) -> np.ndarray:
    """Estimate each metric's upward small-sample bias, (M,).

    At every recall, AP takes the best precision at that recall or above. With few ground-truth boxes it picks lucky
    points: on average, AP of half a test set exceeds AP of the whole, which exceeds AP of the population. This bias
    falls with the size n as 1/√n where precision is flat and as 1/n where it is steep, so halving multiplies it by 1.4
    to 2. With a factor of 1.5, the bias is twice what halving adds. Resamples with replacement show less than half of
    it, because they repeat the picked points.

    The result is 0, up to chance, for recalls and other plain means, and 0 where it cannot be estimated. ``values`` are
    the (M,) metrics of the whole dataset.
    """
    if count_patients(patients) < 2:
        return np.zeros(len(values))
    halves = statistic(half_weights(patients, num_splits, np.random.default_rng([seed, 1])).astype(np.float64))
    return np.nan_to_num(BIAS_PER_HALVING * (mean_of_defined(halves, 0) - values))


def interval(
    samples: np.ndarray,
    values: np.ndarray,
    num_patients: int | np.ndarray,
    *,
    bias: np.ndarray | None = None,
    widening: float = 1.0,
    bounds: tuple[float, float] = (0.0, np.inf),
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the percentile interval of the samples, or around value - bias; it always contains the value.

    The percentiles lie outside those of :data:`LEVEL` by as much as Student's t with P - 1 degrees of freedom is wider
    than the normal distribution (the expanded percentile interval of Hesterberg 2015).

    Args:
        samples: (R, M); undefined ones are left out.
        values: (M,) of the whole dataset.
        num_patients: fewer than 2 give no interval.
        bias: (M,) of :func:`small_sample_bias`; moves the samples' mean to value - bias.
        widening: factor on the samples' spread around that mean, used only with ``bias``.
        bounds: possible range of the metrics.

    Returns:
        Low and high ends, (M,) each; NaN where there is no interval.
    """
    values = np.asarray(values, dtype=np.float64)
    low, high = np.full(len(values), np.nan), np.full(len(values), np.nan)
    if bias is not None:
        samples = widening * (samples - mean_of_defined(samples, 0)) + values - bias
    for m, (column, count) in enumerate(zip(samples.T, np.broadcast_to(num_patients, len(values)), strict=True)):
        defined = column[np.isfinite(column)]
        if len(defined) and np.isfinite(values[m]) and count >= 2:
            tail = tail_share(1 - LEVEL, count)
            ends = np.clip(np.quantile(defined, [tail, 1 - tail]), *bounds)
            low[m], high[m] = min(ends[0], values[m]), max(ends[1], values[m])
    return low, high


def metric_intervals(
    statistic: Statistic,
    patients: np.ndarray,
    num_patients: int | np.ndarray,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 100.0),
    training: TrainingSpread | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the metrics on the whole dataset and the ends of their bias-corrected intervals, (M,) each.

    For averages, shares and areas, which have the same meaning on a part of the dataset; not for totals.
    """
    values = statistic(np.ones((1, len(patients))))[0]
    samples = bootstrap(statistic, patients, num_resamples, seed)
    samples = samples if training is None else training.add(samples, seed)
    bias = small_sample_bias(statistic, patients, values, seed=seed)
    widening = float(np.hypot(1.0, BIAS_NOISE))
    return values, *interval(samples, values, num_patients, bias=bias, widening=widening, bounds=bounds)


def tail_share(alpha: float, num_patients: int | np.ndarray) -> float | np.ndarray:
    """Return the share of resamples to cut off at each end for a two-sided error; needs 2 or more patients."""
    spread = np.sqrt(num_patients / (num_patients - 1))
    quantile = special.stdtrit(num_patients - 1, alpha / 2)  # scipy.stats is slow to import
    return special.ndtr(spread * np.where(np.equal(alpha, 0.0), -np.inf, quantile))  # stdtrit gives +inf for 0


def alpha_of_tail(tail: float | np.ndarray, num_patients: int | np.ndarray) -> float | np.ndarray:
    """Invert :func:`tail_share`."""
    spread = np.sqrt(num_patients / (num_patients - 1))
    return 2 * special.stdtr(num_patients - 1, special.ndtri(tail) / spread)


class PairedTest(NamedTuple):
    """Metrics of model B minus those of model A, on the same images.

    Attributes:
        difference, low, high: (M,) difference and its interval.
        p_value: (M,) two-sided, from the same resamples as the interval.
        least_p: (M,) smallest p value that this many resamples can give.
    """

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    least_p: np.ndarray


def difference_test(
    difference: np.ndarray,
    samples: np.ndarray,
    num_patients: int | np.ndarray,
    training: TrainingSpread | None = None,
    seed: int = 0,
) -> PairedTest:
    """Test (M,) differences × 100 of two models from their (R, M) bootstrap samples on the same resampled patients.

    The small-sample bias of both models is nearly the same and mostly cancels; correcting the rest would add more noise
    than it removes.
    """
    counts = np.broadcast_to(num_patients, len(difference))
    samples = samples if training is None else training.add(samples, seed)
    low, high = interval(samples, difference, counts, bounds=(-100.0, 100.0))
    least = _alpha(np.full(len(counts), 1 / (len(samples) + 1)), counts)
    return PairedTest(difference, low, high, _two_sided_p(samples, counts), least)


def _two_sided_p(samples: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute (M,) p values from the share of resamples at or beyond 0, plus one so that p is never 0."""
    defined = np.isfinite(samples)
    total = defined.sum(axis=0)
    below = (defined & (samples <= 0)).sum(axis=0)
    above = (defined & (samples >= 0)).sum(axis=0)
    tail = np.minimum(0.5, (np.minimum(below, above) + 1) / (total + 1))
    return np.where(total > 0, _alpha(tail, counts), np.nan)


def _alpha(tail: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute (M,) two-sided errors, NaN for fewer than 2 patients."""
    enough = counts >= 2
    return np.where(enough, alpha_of_tail(tail, np.where(enough, counts, 2)), np.nan)


@dataclass(frozen=True)
class TrainingSpread:
    """Standard deviation (M,) of metrics between training seeds.

    ``freedom`` is its degrees of freedom: Σ (S - 1) over groups of S trainings, fewer if these are not independent.
    """

    std: np.ndarray
    freedom: float

    def of_mean(self, count: float) -> TrainingSpread:
        """Return the standard error of a mean over ``count`` trainings (of a difference: 1 / (1 / a + 1 / b))."""
        return TrainingSpread(self.std / np.sqrt(count), self.freedom)

    def add(self, samples: np.ndarray, seed: int = 0) -> np.ndarray:
        """Add the spread between trainings to (R, M) bootstrap samples, drawn from Student's t."""
        noise = np.random.default_rng([seed, 2]).standard_t(self.freedom, size=samples.shape)
        return samples + noise * self.std


def pooled_spread(groups: Sequence[np.ndarray]) -> TrainingSpread | None:
    """Pool the variance between training seeds over groups; None if no group has two trainings.

    A group is the (S, M) metrics of one model and fold; groups with undefined values are left out.
    """
    several = [np.asarray(group, dtype=np.float64) for group in groups if len(group) >= 2 and np.isfinite(group).all()]
    if not several:
        return None
    squares = [((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in several]
    freedom = sum(len(group) - 1 for group in several)
    return TrainingSpread(np.sqrt(np.sum(squares, axis=0) / freedom), freedom)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p values for the family-wise error by Holm's step-down method (1979); NaN is kept and not counted."""
    p_values = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(p_values), np.nan)
    made = np.flatnonzero(np.isfinite(p_values))
    order = made[np.argsort(p_values[made], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return corrected
