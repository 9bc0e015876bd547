"""What difference a study could show, tested by simulated studies, and detectors that have learned nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from simulated import paired_test, simulate

from mdf_detectron.evaluation import evaluate_coco, power
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.statistics import patients_of


@pytest.fixture(scope="module")
def truth():
    return GroundTruth.load(simulate(60, 3, num_classes=2)[0])


def study(truth, seed, gain):
    """Difference, and whether it is shown, of one simulated study."""
    pair = power.simulate_pair(truth, np.random.default_rng([7, seed]), gain)
    patients = patients_of(truth)
    found = paired_test(*(power.ap50(truth, one) for one in pair), patients, len(set(truth.image)), 100, seed)
    return found.difference[0], found.low[0] > 0


@pytest.mark.parametrize("gain", [0.0, 0.4, 0.8])
def test_the_smallest_difference_is_shown_in_four_of_five_studies(truth, gain):
    """The share of studies that show a difference is that of the normal distribution around it, 0.8 at the smallest."""
    smallest = power.smallest_difference({0: truth}, seeds=1)
    differences, shown = zip(*(study(truth, seed, gain) for seed in range(150)), strict=True)
    expected = norm.cdf((1.96 + 0.84) * np.mean(differences) / smallest - 1.96)
    assert np.mean(shown) == pytest.approx(expected, abs=0.12)
    assert (gain == 0) == (expected < 0.2) and (expected > 0.75) == (gain == 0.8)


def test_other_detectors_have_such_intervals_too(truth):
    """Detectors drawn by another program, with boxes that are missed and moved, give an interval of the same size."""
    annotations, (first, second) = simulate(60, 3, num_classes=2, skills=(1.5, 1.5))
    sides = [power.ap50(truth, Detections.load(one, truth)) for one in (first, second)]
    value = sides[0](np.ones((1, 60)))[0, 0]
    assert value == pytest.approx(evaluate_coco(annotations, first)["bbox_iobb"]["AP50"])
    test = paired_test(*sides, patients_of(truth), len(set(truth.image)), 200)
    half = (test.high[0] - test.low[0]) / 2
    assert half * power.FOUR_OF_FIVE == pytest.approx(power.smallest_difference({0: truth}, 1), rel=0.5)


def test_more_patients_seeds_and_folds_show_less(truth):
    many = GroundTruth.load(simulate(240, 4, num_classes=2)[0])
    one, four = (power.smallest_difference({0: each}, 1) for each in (truth, many))
    assert one / four == pytest.approx(2, rel=0.35)  # √4
    with_trainings = power.smallest_difference({0: truth}, 2)
    assert with_trainings > power.smallest_difference({0: truth}, 9)
    text = power.answer_in_words({0: truth}, one, ", 1 seed", all_patients=400)
    assert f"a difference of {one:.1f} points of AP50" in text and "`--folds 5`" in text and "all 400 patients" in text
    assert "--folds" not in power.answer_in_words({0: truth}, one, ", 1 seed")
    assert "No: " in power.answer_in_words({0: truth}, 120.0, ", 2 seeds")
    nobody = GroundTruth.load({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    assert power.smallest_difference({0: nobody}, 3) is None
    assert "No: 0 test patients" in power.answer_in_words({0: nobody}, None, "")


def test_learned_is_what_no_other_patients_image_has(truth):
    """Boxes that are there are learned; the same boxes on every image, and none, are not, however they score."""
    own, everywhere, rng = [], [], np.random.default_rng(0)
    for g, image in enumerate(truth.image):
        one = {"category_id": truth.category_ids[truth.category[g]], "score": float(rng.random())}
        own.append({**one, "image_id": truth.image_ids[image], "bbox": truth.boxes[g].tolist()})
    for image in truth.image_ids:
        everywhere += [{"image_id": image, "category_id": k, "score": float(rng.random()), "bbox": [100, 100, 300, 300]}
                       for k in truth.category_ids]  # fmt: skip
    learned = [power.has_learned({0: truth}, {0: Detections.load(found, truth)}) for found in (own, everywhere, [])]
    assert learned == [True, False, False]
    few = GroundTruth.load(simulate(8, 3, num_classes=2)[0])
    assert power.has_learned({0: few}, {0: Detections.load([], few)})  # so few patients cannot tell


def test_an_exchange_moves_boxes_with_the_size_of_the_image():
    images = [{"id": n, "width": 100 * n, "height": 50 * n} for n in (1, 2)]
    truth = GroundTruth.load({"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    found = Detections.load([{"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 5], "score": 0.5}], truth)
    moved = power._exchange(truth, found, np.random.default_rng(0))
    assert moved.image.tolist() == [1] and moved.boxes.tolist() == [[20, 40, 60, 10]]
