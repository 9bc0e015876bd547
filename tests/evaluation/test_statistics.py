"""Bootstrap intervals, the paired test, the chance of training and Holm's correction, by hand and by known laws."""

import warnings
from itertools import combinations

import numpy as np
import pytest
from evaluation_cases import dataset, random_case
from scipy import stats
from simulated import paired_test, simulate

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import match
from mdf_detectron.evaluation.metrics import metric_support, metric_values
from mdf_detectron.evaluation.statistics import (
    BIAS_PER_HALVING,
    TrainingSpread,
    alpha_of_tail,
    bootstrap,
    difference_test,
    half_weights,
    holm,
    interval,
    metric_intervals,
    patients_of,
    pooled_spread,
    resample_weights,
    small_sample_bias,
    tail_share,
)


def test_patients_come_whole():
    images = [{"id": n, "patient_id": patient} for n, patient in enumerate("aba", start=1)]
    truth = GroundTruth.load({"images": [*images, {"id": 4}], "annotations": [], "categories": []})
    patients = patients_of(truth)
    assert patients.tolist() == [0, 1, 0, 2]
    weights = resample_weights(patients, 500, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()  # three draws of three patients
    assert weights.mean(axis=0) == pytest.approx(np.ones(4), abs=0.15)


def test_the_mean_has_its_known_spread():
    """The bootstrap of a mean over n values has standard error std / sqrt(n)."""
    values = np.random.default_rng(0).normal(size=200)
    samples = bootstrap(lambda w: (w @ values / w.sum(axis=1))[:, None], np.arange(200), 4000)
    assert samples.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.05)
    low, high = interval(samples, np.array([values.mean()]), 200, bounds=(-1, 1))
    half = 1.96 * values.std() / np.sqrt(200)
    assert (low[0], high[0]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def statistic_of(annotations, predictions):
    truth = GroundTruth.load(annotations)
    matches = match(truth, Detections.load(predictions, truth))
    return truth, lambda weights: metric_values(matches, weights)[1]


def test_same_seed_same_resamples_whatever_the_chunk():
    truth, statistic = statistic_of(*random_case(5, num_images=12))
    first = bootstrap(statistic, patients_of(truth), 30, seed=3, chunk=30)
    np.testing.assert_array_equal(first, bootstrap(statistic, patients_of(truth), 30, seed=3, chunk=7))
    assert not np.array_equal(first, bootstrap(statistic, patients_of(truth), 30, seed=4), equal_nan=True)


def test_equals_matching_again():
    """A resample's metrics by weights are those of the resampled dataset, matched from scratch."""
    annotations, predictions = random_case(8, num_images=10)
    for i, prediction in enumerate(predictions):
        prediction["score"] += 1e-6 * i
    truth, statistic = statistic_of(annotations, predictions)
    samples = bootstrap(statistic, patients_of(truth), 20, seed=1)
    weights = resample_weights(patients_of(truth), 20, np.random.default_rng(1))
    for sample, times in zip(samples, weights, strict=True):
        again = [
            (i["id"], 100 * i["id"] + c) for i, n in zip(annotations["images"], times, strict=True) for c in range(n)
        ]
        resampled = {
            **annotations,
            "images": [{"id": new} for _, new in again],
            "annotations": [
                {**a, "image_id": n} for o, n in again for a in annotations["annotations"] if a["image_id"] == o
            ],
        }
        found = [{**p, "image_id": n} for o, n in again for p in predictions if p["image_id"] == o]
        np.testing.assert_allclose(sample, statistic_of(resampled, found)[1](None), atol=1e-9)


def test_undefined_samples(monkeypatch):
    monkeypatch.setattr("mdf_detectron.evaluation.statistics.LEVEL", 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = np.array([[np.nan, 1.0], [np.nan, np.nan], [np.nan, 3.0]])
        low, high = interval(samples, np.array([np.nan, 2.0]), 30)
        assert np.isnan(low[0]) and np.isnan(high[0]) and (low[1], high[1]) == (1.0, 3.0)
        assert resample_weights(np.zeros(0, dtype=int), 3, np.random.default_rng(0)).shape == (3, 0)


def test_interval_by_hand(monkeypatch):
    """Samples 2 to 6 with mean 4; value 3, bias 1: they are moved to 0 to 4, around 2."""
    monkeypatch.setattr("mdf_detectron.evaluation.statistics.LEVEL", 1.0)
    samples = np.linspace(2, 6, 5)[:, None]
    low, high = interval(samples, np.array([3.0]), 30, bias=np.array([1.0]))
    assert (low[0], high[0]) == (0.0, 4.0)
    low, high = interval(samples, np.array([3.0]), 30, bias=np.zeros(1), widening=1.5)
    assert (low[0], high[0]) == (0.0, 6.0)
    assert interval(samples, np.array([3.0]), 30)[1][0] == 6.0
    assert interval(samples, np.array([3.0]), 30, bounds=(2.5, 4.5)) == (2.5, 4.5)
    assert interval(samples, np.array([3.0]), 30, bias=np.array([9.0]))[1][0] == 3.0  # never without it
    assert np.isnan(interval(samples, np.array([3.0]), 1)).all()


def test_few_patients_have_wider_intervals():
    """t(0.975, 9) = 2.26216, times the square root of 10/9: normal quantile 2.38453, a tail of 0.00855."""
    assert tail_share(0.05, 10) == pytest.approx(0.00855, abs=1e-5)
    assert tail_share(0.05, 100_000) == pytest.approx(0.025, abs=1e-5)
    assert alpha_of_tail(tail_share(0.05, 10), 10) == pytest.approx(0.05)
    samples = np.random.default_rng(0).normal(size=(20_000, 2))
    low, high = interval(samples, np.zeros(2), np.array([10, 100_000]), bounds=(-9, 9))
    assert (high - low) == pytest.approx([2 * 2.38453, 2 * 1.95996], rel=0.03)


def test_halves_divide_the_patients():
    patients = np.array([0, 1, 0, 2, 3, 4])
    weights = half_weights(patients, 7, np.random.default_rng(0))
    assert weights.shape == (14, 6) and set(weights.ravel()) == {0, 1}
    assert (weights[:7] + weights[7:] == 1).all() and (weights[:, 0] == weights[:, 2]).all()
    assert {len(set(patients[w == 1])) for w in weights} == {2, 3}


def test_bias_of_the_variance():
    """The plain variance of n draws is too low by σ²/n; of a half by 2 σ²/n: halving adds -σ²/n."""
    values = np.random.default_rng(0).normal(size=100)

    def variance_and_mean(w):
        mean = w @ values / w.sum(axis=1)
        return np.stack([w @ values**2 / w.sum(axis=1) - mean**2, mean], axis=1)

    whole = np.array([values.var(), values.mean()])
    bias = small_sample_bias(variance_and_mean, np.arange(100), whole, num_splits=2000)
    # half of a finite set, drawn without replacement: E[var of a half] = var (1 - 1/50) 100/99
    expected = values.var() * ((1 - 1 / 50) * 100 / 99 - 1)
    assert bias[0] == pytest.approx(BIAS_PER_HALVING * expected, rel=0.15)
    assert bias[1] == pytest.approx(0, abs=1e-12)  # both halves together have the mean of the whole
    assert (small_sample_bias(variance_and_mean, np.zeros(100, dtype=int), whole) == 0).all()


def test_intervals_of_metrics_allow_for_the_bias_of_small_test_sets():
    annotations, (found,) = simulate(120, 3)
    truth, statistic = statistic_of(annotations, found)
    patients = patients_of(truth)
    values, low, high = metric_intervals(statistic, patients, len(np.unique(patients)), 200)
    np.testing.assert_array_equal(values, statistic(None))
    assert (low <= values).all() and (values <= high).all()
    assert values[0] - low[0] > 2 * (high[0] - values[0])  # AP: further down than up
    assert values[4] - low[4] < 1.5 * (high[4] - values[4])  # AR50 is a share: no bias


def test_patients_that_a_metric_rests_on():
    """Class 1 has boxes of patients 0 and 1, class 2 of patient 1; crowds do not count; class 3 has none."""
    box = (0, 0, 10, 10)
    annotations = dataset(
        [(1, 1, box, 0), (2, 1, box, 0), (3, 1, box, 0), (3, 2, box, 0), (4, 2, box, 1)], num_images=5
    )
    truth, _ = statistic_of(annotations, [])
    patients = np.array([0, 0, 1, 2, 3])
    support = metric_support(match(truth, Detections.load([], truth)))
    assert [len(set(patients[row])) for row in support] == [2] * 5 + [2] * 4 + [1] * 4 + [0] * 4


@pytest.mark.parametrize("alpha", [0.0, 1e-9, 0.05, 1.0])
def test_tails_are_those_of_scipys_distributions(alpha):
    for patients in (2, 10, 5000):
        spread = np.sqrt(patients / (patients - 1))
        expected = stats.norm.cdf(spread * stats.t.ppf(alpha / 2, patients - 1))
        np.testing.assert_allclose(tail_share(alpha, patients), expected, rtol=1e-12)
        back = 2 * stats.t.cdf(stats.norm.ppf(expected) / spread, patients - 1)
        np.testing.assert_allclose(alpha_of_tail(expected, patients), back, rtol=1e-12)


def mean_of(values):
    return lambda w: w @ values / w.sum(axis=1, keepdims=True)


def test_a_model_against_itself():
    annotations, predictions = random_case(5, num_images=12)
    truth = GroundTruth.load(annotations)
    matches = match(truth, Detections.load(predictions, truth))

    def statistic(weights):
        return metric_values(matches, weights)[1]

    outcome = paired_test(statistic, statistic, patients_of(truth), 12, 100)
    defined = np.isfinite(outcome.difference)
    assert defined.any() and not defined.all()
    assert (outcome.difference[defined] == 0).all() and (outcome.p_value[defined] == 1).all()
    assert np.isnan(outcome.p_value[~defined]).all()


def test_sees_what_separate_intervals_do_not():
    """Two noisy models that differ by a constant on every image."""
    values = np.random.default_rng(0).normal(size=(100, 1))
    outcome = paired_test(mean_of(values), mean_of(values + 0.05), np.arange(100), 100, 500)
    assert outcome.difference[0] == pytest.approx(0.05)
    assert outcome.low[0] == pytest.approx(0.05) and outcome.high[0] == pytest.approx(0.05)
    assert outcome.p_value[0] == outcome.least_p[0] == pytest.approx(alpha_of_tail(1 / 501, 100))
    assert 2 / 501 < outcome.p_value[0] < 3 / 501
    low, high = interval(bootstrap(mean_of(values), np.arange(100), 500), values.mean(axis=0), 100, bounds=(-1, 1))
    assert high[0] - low[0] > 0.3


def test_p_is_small_just_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(15, 40))
    second = first + rng.normal(0.5, 1, size=(15, 40))
    outcome = paired_test(mean_of(first), mean_of(second), np.arange(15), 15, 4000)
    outside = (outcome.low > 0) | (outcome.high < 0)
    clear = np.abs(outcome.p_value - 0.05) > 0.005  # one resample is not to decide
    assert (outside == (outcome.p_value < 0.05))[clear].all()
    assert clear.sum() > 30 and 5 < outside.sum() < 35


def test_equals_students_t_for_means():
    """The difference of means of 12 patients: the paired t test knows its p value."""
    rng = np.random.default_rng(3)
    first = rng.normal(size=(12, 6))
    second = first + rng.normal(0.4, 1, size=(12, 6))
    outcome = paired_test(mean_of(first), mean_of(second), np.arange(12), 12, 20_000)
    expected = stats.ttest_rel(second, first).pvalue
    assert outcome.p_value == pytest.approx(expected, abs=0.03)


def test_one_patient_says_nothing():
    outcome = paired_test(mean_of(np.ones((3, 2))), mean_of(np.zeros((3, 2))), np.zeros(3, dtype=int), 1, 50)
    assert outcome.difference.tolist() == [-1, -1]
    assert np.isnan([outcome.low, outcome.high, outcome.p_value, outcome.least_p]).all()


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


def test_a_difference_ends_at_100_points():
    """The spread of two seeds has one degree of freedom: Student's t then goes further than metrics can differ."""
    one = difference_test(np.array([5.0]), np.zeros((1000, 1)), 50, TrainingSpread(np.array([40.0]), 1))
    assert (one.low[0], one.high[0]) == (-100, 100)


def test_noise_is_the_same_for_the_same_seed():
    spread = TrainingSpread(np.array([1.0, 0.0]), 4)
    once, again = (spread.add(np.zeros((50, 2)), 3) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (once[:, 1] == 0).all() and once[:, 0].std() == pytest.approx(np.sqrt(2), rel=0.5)
