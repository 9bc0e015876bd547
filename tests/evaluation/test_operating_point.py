"""Thresholds, reliability and temperature against hand-worked values and slow references."""

import math

import numpy as np
import pytest

from mdf_detectron.evaluation.calibration import (
    calibrated,
    fit_temperature,
    log_loss,
    operating_points,
    reliability,
    threshold_for_false_positives,
    threshold_for_sensitivity,
)

SCORES = [0.9, 0.8, 0.8, 0.7, 0.4, 0.3]
HITS = [True, False, True, True, False, True]


def slow_counts(scores, hits, threshold):
    true = false = 0
    for score, hit in zip(scores, hits, strict=True):
        if score >= threshold:
            true, false = true + bool(hit), false + (not hit)
    return true, false


def test_points_by_hand():
    points = operating_points(SCORES, HITS, num_boxes=5, num_images=2)
    found = [(p.threshold, p.false_positives, p.sensitivity) for p in points]
    assert found == [
        (math.inf, 0, 0),
        (0.9, 0, 0.2),
        (0.8, 0.5, 0.4),
        (0.7, 0.5, 0.6),
        (0.4, 1.0, 0.6),
        (0.3, 1.0, 0.8),
    ]
    at = threshold_for_false_positives(SCORES, HITS, 5, 2, 0.5)
    assert (at.threshold, at.sensitivity) == (0.7, 0.6)
    assert threshold_for_false_positives(SCORES, HITS, 5, 2, 0.0).threshold == 0.9
    assert threshold_for_sensitivity(SCORES, HITS, 5, 2, 0.6).threshold == 0.7
    assert threshold_for_sensitivity(SCORES, HITS, 5, 2, 0.9) is None


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_equal_a_search_over_every_score(seed):
    rng = np.random.default_rng(seed)
    count, images = int(rng.integers(0, 40)), int(rng.integers(1, 12))
    scores = rng.integers(0, 15, count) / 15  # with ties
    hits = rng.random(count) < 0.5
    boxes = int(hits.sum() + rng.integers(0, 5))
    candidates = [math.inf, *sorted(set(scores.tolist()), reverse=True)]
    for rate in (0.0, 0.3, 1.0, 5.0):
        allowed = [t for t in candidates if slow_counts(scores, hits, t)[1] / images <= rate]
        best = max(slow_counts(scores, hits, t)[0] for t in allowed)
        expected = next(t for t in allowed if slow_counts(scores, hits, t)[0] == best) if boxes else math.inf
        assert threshold_for_false_positives(scores, hits, boxes, images, rate).threshold == expected
    for wanted in (0.1, 0.5, 1.0):
        reached = [t for t in candidates if boxes and slow_counts(scores, hits, t)[0] / boxes >= wanted]
        point = threshold_for_sensitivity(scores, hits, boxes, images, wanted)
        assert (point and point.threshold) == (reached[0] if reached else None)


def test_no_detections_and_no_boxes():
    assert threshold_for_false_positives([], [], 3, 4, 1.0).threshold == math.inf
    point = threshold_for_false_positives([0.5], [False], 0, 4, 1.0)
    assert point.threshold == math.inf and math.isnan(point.sensitivity)
    assert math.isnan(reliability([], []).error) and fit_temperature([], []) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: operating_points([0.1], [True, False], 1, 1),
        lambda: operating_points([math.nan], [True], 1, 1),
        lambda: operating_points([0.1], [True], 1, 0),
        lambda: threshold_for_false_positives([0.1], [True], 1, 1, -1),
        lambda: threshold_for_sensitivity([0.1], [True], 1, 1, 1.5),
        lambda: reliability([1.5], [True]),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(ValueError):
        call()


def test_reliability_equals_a_loop_over_bins():
    rng = np.random.default_rng(3)
    scores = np.append(rng.random(200), [0.0, 1.0, 0.1, 0.2])
    hits = rng.random(204) < scores**2
    found = reliability(scores, hits, 7)
    error = 0.0
    for b in range(7):
        inside = [i for i, s in enumerate(scores) if b / 7 <= s < (b + 1) / 7 or (b == 6 and s == 1)]
        assert found.counts[b] == len(inside)
        confidence = sum(scores[i] for i in inside) / len(inside)
        accuracy = sum(bool(hits[i]) for i in inside) / len(inside)
        assert found.confidence[b] == pytest.approx(confidence) and found.accuracy[b] == pytest.approx(accuracy)
        error += len(inside) / 204 * abs(confidence - accuracy)
    assert found.error == pytest.approx(error) and error > 0.05
    assert np.isnan(reliability([0.95], [True]).accuracy[:9]).all()


def test_temperature_is_recovered_and_beats_a_grid():
    rng = np.random.default_rng(1)
    truth = rng.random(20000)
    hits = rng.random(20000) < truth
    for temperature in (0.5, 2.0):
        # scores that are right after division of their logit by the temperature
        scores = 1 / (1 + np.exp(-temperature * np.log(truth / (1 - truth))))
        found = fit_temperature(scores, hits)
        assert found == pytest.approx(temperature, rel=0.05)
        grid = [log_loss(calibrated(scores, t), hits) for t in np.linspace(0.1, 5, 200)]
        assert log_loss(calibrated(scores, found), hits) <= min(grid) + 1e-9
        assert reliability(calibrated(scores, found), hits).error < reliability(scores, hits).error / 3
    assert fit_temperature([0.3, 0.9], [True, True]) is None


def test_calibration_keeps_the_order_and_one_changes_nothing():
    scores = np.linspace(0, 1, 101)
    np.testing.assert_allclose(calibrated(scores, 1.0), scores, atol=2e-6)
    assert (np.diff(calibrated(scores[1:-1], 3.0)) > 0).all()
    assert calibrated(0.8, 2.0) == pytest.approx(1 / (1 + math.exp(-math.log(4) / 2)))
