"""Thresholds, reliability, temperature and what a checkpoint's choices do on new data: by hand and by slow loops."""

import math

import numpy as np
import pytest
from simulated import simulate

from mdf_detectron.evaluation.calibration import (
    POOLED,
    calibrated,
    calibration_of,
    choose_threshold,
    fit_temperature,
    log_loss,
    operating_points,
    reliability,
    stored_choices,
)
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.froc import FrocDetections
from mdf_detectron.evaluation.summary import Protocol, summarize
from mdf_detectron.report.tables import build_tables

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
        (math.inf, 0, 0), (0.9, 0, 0.2), (0.8, 0.5, 0.4), (0.7, 0.5, 0.6), (0.4, 1.0, 0.6), (0.3, 1.0, 0.8),
    ]  # fmt: skip
    at = choose_threshold(SCORES, HITS, 5, 2, false_positives=0.5)
    assert (at.threshold, at.sensitivity) == (0.7, 0.6)
    assert choose_threshold(SCORES, HITS, 5, 2, false_positives=0.0).threshold == 0.9
    assert choose_threshold(SCORES, HITS, 5, 2, sensitivity=0.6).threshold == 0.7
    assert choose_threshold(SCORES, HITS, 5, 2, sensitivity=0.9) is None


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
        assert choose_threshold(scores, hits, boxes, images, false_positives=rate).threshold == expected
    for wanted in (0.1, 0.5, 1.0):
        reached = [t for t in candidates if boxes and slow_counts(scores, hits, t)[0] / boxes >= wanted]
        point = choose_threshold(scores, hits, boxes, images, sensitivity=wanted)
        assert (point and point.threshold) == (reached[0] if reached else None)


def test_no_detections_and_no_boxes():
    assert choose_threshold([], [], 3, 4, false_positives=1.0).threshold == math.inf
    point = choose_threshold([0.5], [False], 0, 4, false_positives=1.0)
    assert point.threshold == math.inf and math.isnan(point.sensitivity)
    assert reliability([], [])["error"] is None and fit_temperature([], []) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: operating_points([0.1], [True, False], 1, 1),
        lambda: operating_points([math.nan], [True], 1, 1),
        lambda: operating_points([0.1], [True], 1, 0),
        lambda: choose_threshold([0.1], [True], 1, 1, false_positives=-1),
        lambda: choose_threshold([0.1], [True], 1, 1, sensitivity=1.5),
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
    found = reliability(scores, hits)
    error = 0.0
    for b in range(10):
        inside = [i for i, s in enumerate(scores) if b / 10 <= s < (b + 1) / 10 or (b == 9 and s == 1)]
        assert found["counts"][b] == len(inside)
        confidence = sum(scores[i] for i in inside) / len(inside)
        accuracy = sum(bool(hits[i]) for i in inside) / len(inside)
        assert found["confidence"][b] == pytest.approx(confidence) and found["accuracy"][b] == pytest.approx(accuracy)
        error += len(inside) / 204 * abs(confidence - accuracy)
    assert found["error"] == pytest.approx(error) and error > 0.05
    assert reliability([0.95], [True])["accuracy"][:9] == [None] * 9


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
        assert reliability(calibrated(scores, found), hits)["error"] < reliability(scores, hits)["error"] / 3
    assert fit_temperature([0.3, 0.9], [True, True]) is None


def test_calibration_keeps_the_order_and_one_changes_nothing():
    scores = np.linspace(0, 1, 101)
    np.testing.assert_allclose(calibrated(scores, 1.0), scores, atol=2e-6)
    assert (np.diff(calibrated(scores[1:-1], 3.0)) > 0).all()
    assert calibrated(0.8, 2.0) == pytest.approx(1 / (1 + math.exp(-math.log(4) / 2)))


FOUND = FrocDetections(
    scores=np.array([0.95, 0.85, 0.85, 0.25, 0.05]),
    image=np.array([0, 0, 1, 1, 2]),
    category=np.array([0, 1, 0, 0, 1]),
    true_positive=np.array([True, False, True, False, False]),
    gt_image=np.array([0, 1, 1, 3]),
    gt_category=np.array([0, 0, 0, 1]),
    num_images=4,
)


def test_each_class_and_all_together():
    classes = calibration_of(FOUND, ("a", "b"), "iobb")["classes"]
    assert list(classes) == ["a", "b", POOLED]
    assert classes["a"]["error"] == pytest.approx((0.05 + 0.15 + 0.25) / 3)
    assert classes["b"]["error"] == pytest.approx((0.85 + 0.05) / 2)
    # the bin of 0.8 holds a hit and a miss
    assert classes[POOLED]["error"] == pytest.approx((0.05 + 2 * 0.35 + 0.25 + 0.05) / 5)
    assert classes[POOLED]["counts"] == [1, 0, 1, 0, 0, 0, 0, 0, 2, 1] and classes["a"]["accuracy"][0] is None


def test_scores_that_are_no_probabilities_have_no_calibration():
    logits = FrocDetections(FOUND.scores * 4, *(getattr(FOUND, n) for n in ("image", "category", "true_positive",
                            "gt_image", "gt_category", "num_images")))  # fmt: skip
    assert calibration_of(logits, ("a", "b"), "iobb") == {}


def test_stored_thresholds_and_temperature():
    chosen = {"false_positives": 0.5, "sensitivity": 0.9}
    point = {"source": "val", "classes": {"a": {"threshold": 0.85, **chosen}, "b": {"threshold": None, **chosen}}}
    out = stored_choices(FOUND, ("a", "b"), point, {"source": "val", "temperature": 2.0})
    a, b = out["operating_point"]["classes"].values()
    assert a == {"threshold": 0.85, "boxes": 3, "chosen": chosen,
                 "here": {"false_positives": 0.0, "sensitivity": pytest.approx(2 / 3)}}  # fmt: skip
    assert b["here"] == {"false_positives": 0.0, "sensitivity": 0.0}
    point["classes"]["a"]["threshold"], point["classes"]["b"]["threshold"] = 0.2, 0.05
    a, b = stored_choices(FOUND, ("a", "b"), point, None)["operating_point"]["classes"].values()
    assert (a["here"]["false_positives"], b["here"]["false_positives"]) == (0.25, 0.5)
    scaled = calibrated(FOUND.scores, 2.0)
    gaps = [abs(scaled[0] - 1), abs(scaled[1] - 0.5), abs(scaled[2] - 0.5), scaled[3], scaled[4]]
    assert out["calibration"]["error_after"] == pytest.approx(np.mean(gaps), abs=1e-9)
    assert stored_choices(FOUND, ("a", "b"), None, None) == {"operating_point": None, "calibration": None}


def test_the_report_shows_both():
    annotations, (found,) = simulate(6, 1, skills=(2.0,), num_classes=2)
    ground_truth = GroundTruth.load(annotations)
    summary = summarize(ground_truth, Detections.load(found, ground_truth), Protocol(num_resamples=2))
    classes = {
        "a": {"threshold": 0.85, "false_positives": 0.5, "sensitivity": None},
        "b": {"threshold": None, "false_positives": 0, "sensitivity": 0},
    }
    point = {"source": "val", "classes": classes}
    summary["stored"] = stored_choices(FOUND, ("a", "b"), point, {"source": "val", "temperature": 2.0})
    tables = {table.name: table for table in build_tables({"models": {"m": summary}})}
    assert [row[0] for row in tables["m_calibration"].rows] == [*ground_truth.class_names, POOLED]
    assert tables["m_operating_point"].rows == [["a", "0.850", "0.50", "0.00", "–", "0.67", "3"],
                                                ["b", "reports none", "0.00", "0.00", "0.00", "0.00", "1"]]  # fmt: skip
    assert tables["m_temperature"].rows[0][:2] == ["2.00", "0.210"]
