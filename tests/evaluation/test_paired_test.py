import numpy as np
import pytest
from evaluation_cases import random_case
from simulated import paired_test

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import match
from mdf_detectron.evaluation.metrics import metric_values
from mdf_detectron.evaluation.statistics import alpha_of_tail, bootstrap, interval, patients_of


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
    from scipy import stats

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
