"""The chance of training, and Holm's correction against the closed test that defines it."""

from itertools import combinations

import numpy as np
import pytest

from mdf_detectron.evaluation.statistics import TrainingSpread, holm, metric_intervals, pooled_spread


def slow_holm(p_values):
    """Closed testing: a hypothesis falls when every intersection that holds it falls by Bonferroni."""
    n = len(p_values)
    sets = [s for size in range(1, n + 1) for s in combinations(range(n), size)]
    return [max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets if k in s) for k in range(n)]


def test_holm_is_the_closed_bonferroni_test():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p_values = rng.uniform(0, 0.4, 5) ** 2
        np.testing.assert_allclose(holm(p_values), slow_holm(p_values))
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    assert len(holm([])) == 0


def test_pooled_spread_by_hand():
    spread = pooled_spread([np.array([[1.0], [3.0]]), np.array([[10.0], [10.0], [13.0]]), np.array([[7.0]])])
    assert spread.freedom == 3
    np.testing.assert_allclose(spread.std, np.sqrt((2 + 6) / 3))
    np.testing.assert_allclose(spread.of_mean(4).std, spread.std / 2)
    assert pooled_spread([np.array([[1.0]])]) is None


def test_intervals_with_the_chance_of_training_cover_what_they_should():
    """Of a linear model's means about 95 % of the intervals hold the truth; without the chance of training far less."""
    rng, patients, seeds, inside, without = np.random.default_rng(1), 60, 3, 0, 0
    for study in range(200):
        values = 50 + rng.normal(0, 2, (seeds, 1)) + rng.normal(0, 4, (1, patients))
        mean = values.mean(axis=0)

        def statistic(weights, mean=mean):
            return weights @ mean[:, None] / weights.sum(axis=1, keepdims=True)

        cells = [rng.normal(0, 2, (seeds, 1)) for _ in range(5)]
        spread = pooled_spread([values.mean(axis=1)[:, None], *cells]).of_mean(seeds)
        for noise in (spread, None):
            _, low, high = metric_intervals(statistic, np.arange(patients), patients, 200, study, training=noise)
            covered = low[0] <= 50 <= high[0]
            inside, without = inside + (covered and noise is not None), without + (covered and noise is None)
    assert 0.91 <= inside / 200 <= 0.99 and without / 200 < 0.75, (inside, without)


def test_noise_is_the_same_for_the_same_seed():
    spread = TrainingSpread(np.array([1.0, 0.0]), 4)
    once, again = (spread.add(np.zeros((50, 2)), 3) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (once[:, 1] == 0).all() and once[:, 0].std() == pytest.approx(np.sqrt(2), rel=0.5)
