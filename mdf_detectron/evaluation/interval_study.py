"""Do the intervals and the paired test hold what they say?  Many small datasets from a population whose truth is known.

Three models on each: two of the same skill, and a better one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mdf_detectron.evaluation.bootstrap import Statistic, metric_intervals, patients_of
from mdf_detectron.evaluation.coco_metrics import metric_patients, metric_values
from mdf_detectron.evaluation.ground_truth import GroundTruth
from mdf_detectron.evaluation.matching import Matches, match
from mdf_detectron.evaluation.paired_test import paired_test
from mdf_detectron.evaluation.predictions import Detections
from mdf_detectron.evaluation.simulation import SKILL, simulate

METRICS = ("AP50", "AR50", "AP", "AR", "AP50-class 1", "AR50-class 1")
SKILLS = (SKILL, SKILL, SKILL + 1)
COVERAGE, DIFFERENCE, FALSE_POSITIVES = "interval", "interval of a difference", "false positives"


def interval_study(
    runs: Iterable[int], num_images: int, resamples: int, population: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """How often the intervals hold the truth, and the paired test finds what is not there.

    Args:
        runs: numbers of the datasets to draw, ``range(400)`` say.
        num_images: of each dataset.
        population: images that stand for the truth.

    Returns:
        :data:`COVERAGE`: share of datasets whose 95 % interval of the first model's metric holds the population's;
        :data:`DIFFERENCE`: the same of the better model minus the first; :data:`FALSE_POSITIVES`: share of datasets
        on which two models of one skill differ with p < 0.05; each by metric.
    """
    truth = _truth(population, seed)
    counts = {name: np.zeros(len(METRICS)) for name in (COVERAGE, DIFFERENCE, FALSE_POSITIVES)}
    total = 0
    for run in runs:
        patients, (first, same, better) = _matched(num_images, [seed, 1, run])
        sizes = metric_patients(first, patients)[_chosen(first)]
        options = {"num_resamples": resamples, "seed": run}
        _, low, high = metric_intervals(_statistic(first), patients, sizes, **options)
        counts[COVERAGE] += (low <= truth[0]) & (truth[0] <= high)
        test = paired_test(_statistic(first), _statistic(better), patients, sizes, **options)
        counts[DIFFERENCE] += (test.low <= truth[1]) & (truth[1] <= test.high)
        test = paired_test(_statistic(first), _statistic(same), patients, sizes, **options)
        counts[FALSE_POSITIVES] += test.p_value < 0.05
        total += 1
    return {name: dict(zip(METRICS, (count / total).tolist(), strict=True)) for name, count in counts.items()}


def _truth(population: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The first model's metrics on the population, and the better model's minus these."""
    _, (first, _, better) = _matched(population, [seed, 0])
    of_first, of_better = (_mean_of_classes(matches) for matches in (first, better))
    return of_first, of_better - of_first


def _mean_of_classes(matches: Matches) -> np.ndarray:
    """(METRICS,) on the population; classes are drawn alike, so the mean over them is every class's truth."""
    values = dict(zip(*metric_values(matches), strict=True))
    return np.array([values[name.split("-")[0]] for name in METRICS])


def _matched(num_images: int, seed: list[int]) -> tuple[np.ndarray, list[Matches]]:
    annotations, models = simulate(num_images, seed, skills=SKILLS)
    truth = GroundTruth.load(annotations)
    return patients_of(truth), [match(truth, Detections.load(found, truth), overlap="iobb") for found in models]


def _chosen(matches: Matches) -> list[int]:
    names, _ = metric_values(matches)
    return [names.index(name) for name in METRICS]


def _statistic(matches: Matches) -> Statistic:
    chosen = _chosen(matches)
    return lambda weights: metric_values(matches, weights)[1][..., chosen]
