"""The simulated datasets, the plain loops that speed is measured against, and the study of the intervals."""

import numpy as np
import pytest
from benchmarks import interval_study
from benchmarks.evaluation_loops import loop_ap_ar
from benchmarks.interval_study import DETECTED, simulate

from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.average_precision import average_precision
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import COCO_THRESHOLDS, match


def test_what_is_drawn():
    annotations, (weak, strong) = simulate(3000, 5, skills=(0.5, 3.0), false_positives=0.4)
    again, (same, _) = simulate(3000, 5, skills=(0.5, 3.0), false_positives=0.4)
    assert (annotations, weak) == (again, same)
    regions = len(annotations["annotations"])
    assert regions / 3000 == pytest.approx(1.5, abs=0.1)
    assert len({i["patient_id"] for i in annotations["images"]}) == pytest.approx(3000 / 1.3, rel=0.05)
    for found in (weak, strong):
        assert len(found) == pytest.approx(DETECTED * regions + 0.4 * 5 * 3000, rel=0.03)
    assert evaluate_coco(annotations, strong)["bbox"]["AP50"] > evaluate_coco(annotations, weak)["bbox"]["AP50"] + 20


def test_models_of_one_skill_are_equally_good():
    annotations, (first, second) = simulate(4000, 6, skills=(1.5, 1.5))
    one, other = (evaluate_coco(annotations, found)["bbox_iobb"] for found in (first, second))
    assert first != second
    assert one["AP50"] == pytest.approx(other["AP50"], abs=3) and one["AR50"] == pytest.approx(other["AR50"], abs=2)


@pytest.mark.parametrize(("images", "max_dets"), [(0, 10), (1, 10), (40, 10), (60, 2)])
def test_loops_equal_the_evaluation(images, max_dets):
    annotations, (found,) = simulate(images, 7, num_classes=4)
    annotations["annotations"] = [a for a in annotations["annotations"] if a["category_id"] != 3]  # an empty class
    for prediction in found[::3]:  # ties
        prediction["score"] = 0.5
    truth = GroundTruth.load(annotations)
    matches = match(truth, Detections.load(found, truth), overlap="iobb", max_dets=max_dets)
    loops = np.array(loop_ap_ar(annotations, found, COCO_THRESHOLDS, max_dets))
    np.testing.assert_allclose(loops, np.stack(average_precision(matches), axis=-1), atol=1e-9)


def test_intervals_hold_the_truth(monkeypatch):
    """40 test sets of 60 images: a smaller edition of tools/simulate_intervals.py, with room for chance.

    95 % of 40 are 38 ± 1.4; intervals that do not allow for the bias of small test sets hold AP in about 75 %.
    """
    options = {"num_images": 60, "resamples": 200, "population": 8000, "seed": 5}
    found = interval_study.interval_study(range(40), **options)
    for kind in (interval_study.COVERAGE, interval_study.DIFFERENCE):
        assert min(found[kind][name] for name in ("AP50", "AR50", "AP", "AR")) >= 0.88, found
    assert max(found[interval_study.FALSE_POSITIVES].values()) <= 0.12, found
    monkeypatch.setattr("mdf_detectron.evaluation.statistics.BIAS_PER_HALVING", 0.0)
    uncorrected = interval_study.interval_study(range(20), **options)
    assert uncorrected[interval_study.COVERAGE]["AP"] <= 0.85
