import warnings

import numpy as np
import pytest
from evaluation_cases import random_case

from mdf_detectron.evaluation.bootstrap import (
    bootstrap,
    interval,
    mean_over_seeds,
    paired_test,
    patients_of,
    resample_weights,
)
from mdf_detectron.evaluation.coco_metrics import metric_values
from mdf_detectron.evaluation.ground_truth import GroundTruth
from mdf_detectron.evaluation.matching import match
from mdf_detectron.evaluation.predictions import Detections


def test_patients_come_whole():
    truth = GroundTruth.load(
        {
            "images": [
                {"id": 1, "patient_id": "a"},
                {"id": 2, "patient_id": "b"},
                {"id": 3, "patient_id": "a"},
                {"id": 4},
            ],
            "annotations": [],
            "categories": [],
        }
    )
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
    low, high = interval(samples, np.array([values.mean()]), bounds=(-1, 1))
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


def test_paired_test_of_a_model_with_itself():
    truth, statistic = statistic_of(*random_case(5, num_images=12))
    outcome = paired_test(statistic, statistic, patients_of(truth), 100)
    defined = np.isfinite(outcome.difference)
    assert defined.any() and not defined.all()
    assert (outcome.difference[defined] == 0).all() and (outcome.p_value[defined] == 1).all()
    assert np.isnan(outcome.p_value[~defined]).all()


def test_paired_test_sees_what_separate_intervals_do_not():
    """Two noisy models that differ by a constant on every image."""
    values = np.random.default_rng(0).normal(size=(100, 1))

    def mean_of(v):
        return lambda w: w @ v / w.sum(axis=1, keepdims=True)

    outcome = paired_test(mean_of(values), mean_of(values + 0.05), np.arange(100), 500)
    assert outcome.difference[0] == pytest.approx(0.05)
    assert outcome.low[0] == pytest.approx(0.05) and outcome.high[0] == pytest.approx(0.05)
    assert outcome.p_value[0] == pytest.approx(2 / 501)
    low, high = interval(bootstrap(mean_of(values), np.arange(100), 500), values.mean(axis=0), bounds=(-1, 1))
    assert high[0] - low[0] > 0.3


def test_undefined_samples():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = np.array([[np.nan, 1.0], [np.nan, np.nan], [np.nan, 3.0]])
        low, high = interval(samples, np.array([np.nan, 2.0]), 1.0)
        assert np.isnan(low[0]) and np.isnan(high[0]) and (low[1], high[1]) == (1.0, 3.0)
        assert resample_weights(np.zeros(0, dtype=int), 3, np.random.default_rng(0)).shape == (3, 0)


def test_interval_by_hand():
    """Samples 2 to 6 around 4 for a value of 3: bias 1, so the samples are moved down by 2."""
    samples = np.linspace(2, 6, 5)[:, None]
    low, high = interval(samples, np.array([3.0]), 1.0)
    assert (low[0], high[0]) == (0.0, 4.0)
    assert interval(samples, np.array([3.0]), 1.0, bounds=(0.5, 3.5))[0][0] == 0.5
    assert interval(samples, np.array([1.0]), 1.0)[1][0] == 1.0  # never without the value


def test_mean_over_seeds():
    """1, 2, 3: standard deviation 1, t(0.975, 2) = 4.3027."""
    summary = mean_over_seeds([1.0, 2.0, 3.0])
    assert (summary["mean"], summary["std"], summary["runs"]) == (2.0, 1.0, 3)
    assert summary["high"] - 2 == pytest.approx(4.302653 / np.sqrt(3))
    single = mean_over_seeds([5.0])
    assert single["mean"] == 5 and np.isnan(single["low"])
    with pytest.raises(ValueError, match="no runs"):
        mean_over_seeds([])
