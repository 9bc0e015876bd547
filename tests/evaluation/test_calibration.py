"""Calibration and stored choices of a model on new data, worked by hand."""

import numpy as np
import pytest
from simulated import simulate

from mdf_detectron.evaluation.calibration import POOLED, calibrated, calibration_of, stored_choices
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.froc import FrocDetections
from mdf_detectron.evaluation.summary import Protocol, summarize
from mdf_detectron.report.tables import build_tables

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
