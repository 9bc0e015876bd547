"""Intervals hold the truth, and the paired test finds nothing that is not there, on test sets of a known population."""

import numpy as np
import pytest
from simulated import DETECTED, SKILL, paired_test, simulate

from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import match
from mdf_detectron.evaluation.metrics import metric_support, metric_values
from mdf_detectron.evaluation.statistics import metric_intervals, patients_of

METRICS = ("AP50", "AR50", "AP", "AR")
SKILLS = (SKILL, SKILL, SKILL + 1)
TEST_SETS, IMAGES, RESAMPLES, POPULATION = 30, 60, 100, 5000


def test_what_is_drawn():
    annotations, (weak, strong) = simulate(3000, 5, skills=(0.5, 3.0), false_positives=0.4)
    boxes = len(annotations["annotations"])
    assert boxes / 3000 == pytest.approx(1.5, abs=0.1)
    assert len({i["patient_id"] for i in annotations["images"]}) == pytest.approx(3000 / 1.3, rel=0.05)
    for found in (weak, strong):
        assert len(found) == pytest.approx(DETECTED * boxes + 0.4 * 5 * 3000, rel=0.03)
    assert evaluate_coco(annotations, strong)["bbox"]["AP50"] > evaluate_coco(annotations, weak)["bbox"]["AP50"] + 20


def matched(num_images, seed):
    """(patients, matches of two models of one skill and a better one)."""
    annotations, models = simulate(num_images, seed, skills=SKILLS)
    truth = GroundTruth.load(annotations)
    return patients_of(truth), [match(truth, Detections.load(found, truth), overlap="iobb") for found in models]


def values_of(matches, weights=None):
    names, values = metric_values(matches, weights)
    return values[..., [names.index(name) for name in METRICS]]


@pytest.fixture(scope="module")
def test_sets():
    return [matched(IMAGES, [5, 1, run]) for run in range(TEST_SETS)]


@pytest.fixture(scope="module")
def truth():
    """(2, METRICS): the first model's metrics on the population, and the better model's minus these."""
    _, (first, same, better) = matched(POPULATION, [5, 0])
    assert values_of(first) == pytest.approx(values_of(same), abs=2), "models of one skill are equally good"
    return np.stack([values_of(first), values_of(better) - values_of(first)])


def sizes_of(matches, patients):
    names, _ = metric_values(matches)
    support = metric_support(matches)[[names.index(name) for name in METRICS]]
    return np.array([len(np.unique(patients[row])) for row in support])


def share_that_holds(test_sets, truth):
    held = np.zeros(len(METRICS))
    for run, (patients, (first, _, _)) in enumerate(test_sets):
        options = {"num_resamples": RESAMPLES, "seed": run}
        _, low, high = metric_intervals(
            lambda w, m=first: values_of(m, w), patients, sizes_of(first, patients), **options
        )
        held += (low <= truth) & (truth <= high)
    return held / len(test_sets)


def test_intervals_hold_the_truth(test_sets, truth, monkeypatch):
    """95 % of 30 are 28.5 ± 1.2; intervals that do not allow for the bias of small test sets hold AP in about 75 %."""
    assert share_that_holds(test_sets, truth[0]).min() >= 0.86
    monkeypatch.setattr("mdf_detectron.evaluation.statistics.BIAS_PER_HALVING", 0.0)
    assert share_that_holds(test_sets, truth[0])[METRICS.index("AP")] <= 0.85


def test_paired_tests_hold_the_difference_and_find_none_between_models_of_one_skill(test_sets, truth):
    held, found = np.zeros(len(METRICS)), np.zeros(len(METRICS))
    for run, (patients, models) in enumerate(test_sets):
        first, same, better = (lambda w, m=m: values_of(m, w) for m in models)
        options = {"num_resamples": RESAMPLES, "seed": run}
        sizes = sizes_of(models[0], patients)
        test = paired_test(first, better, patients, sizes, **options)
        held += (test.low <= truth[1]) & (truth[1] <= test.high)
        found += paired_test(first, same, patients, sizes, **options).p_value < 0.05
    assert held.min() / TEST_SETS >= 0.86 and found.max() / TEST_SETS <= 0.14
