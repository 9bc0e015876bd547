"""Several trainings of a model with different seeds: mean, spread and interval, and the difference of two models.

A single test set's interval says how sure the score of one trained model is; this one says how much training varies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from mdf_detectron.evaluation.bootstrap import LEVEL


def mean_over_seeds(values: Sequence[float], level: float = LEVEL) -> dict[str, float]:
    """Mean over runs with different seeds, its standard deviation and Student's t interval.

    Args:
        values: one metric of S runs.

    Returns:
        ``{"mean", "std", "low", "high", "runs"}``; spread and interval are NaN for a single run.

    Raises:
        ValueError: no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no runs to average")
    mean = float(array.mean())
    if array.size == 1:
        return {"mean": mean, "std": np.nan, "low": np.nan, "high": np.nan, "runs": 1}
    std = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, array.size - 1)) * std / np.sqrt(array.size)
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half, "runs": int(array.size)}


def difference_over_seeds(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> dict[str, float]:
    """Mean of the second model's runs minus the mean of the first's, Welch's t interval and p value.

    The runs of the two models are taken as independent, and their spreads may differ.

    Args:
        first, second: one metric of each run.

    Returns:
        ``{"value", "low", "high", "p_value"}``; interval and p are NaN where a model has a single run.

    Raises:
        ValueError: a model without runs.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if min(a.size, b.size) == 0:
        raise ValueError("no runs to average")
    difference = float(b.mean() - a.mean())
    if min(a.size, b.size) < 2:
        return {"value": difference, "low": np.nan, "high": np.nan, "p_value": np.nan}
    parts = np.array([a.var(ddof=1) / a.size, b.var(ddof=1) / b.size])
    error = float(np.sqrt(parts.sum()))
    if error == 0:
        return {"value": difference, "low": difference, "high": difference, "p_value": float(difference == 0)}
    freedom = parts.sum() ** 2 / (parts**2 / (np.array([a.size, b.size]) - 1)).sum()
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return {"value": difference, "low": difference - half, "high": difference + half, "p_value": p_value}


def flat_metrics(results: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """{table: {metric: value}} → {"table/metric": value}, defined values only."""
    return {
        f"{table}/{name}": float(value)
        for table, values in results.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
        if isinstance(value, (int, float)) and np.isfinite(value)
    }
