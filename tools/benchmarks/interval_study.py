"""Check the coverage of intervals and the error rate of the paired test, on data sets of a known population.

Three models on each: two of the same skill, and a better one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import Matches, match
from mdf_detectron.evaluation.metrics import metric_patients, metric_values
from mdf_detectron.evaluation.statistics import Statistic, metric_intervals, paired_test, patients_of

SIZE = 512


SKILL = 1.5


DETECTED = 0.85
"""Share of the ground-truth boxes that a model detects at all."""


Annotations = dict[str, Any]


Predictions = list[dict[str, Any]]


def simulate(
    num_images: int,
    seed: int | Sequence[int],
    *,
    skills: Sequence[float] = (SKILL,),
    num_classes: int = 5,
    false_positives: float = 1.0,
    images_per_patient: float = 1.3,
) -> tuple[Annotations, list[Predictions]]:
    """Draw annotations of independent, equally distributed patients, and the predictions of one model for each skill.

    Each image has 0 to 3 boxes. A box is detected with probability :data:`DETECTED`, with a small offset; its score is
    a normal draw around the model's skill, that of a false positive one around 0, mapped to (0, 1).  Models of
    the same skill are equally good; their draws are independent, given the images.

    Args:
        false_positives: mean number of an image and class.
        images_per_patient: on average; images of one patient share a part of their scores' error, in all models.

    Returns:
        COCO annotations, and COCO results of each model.
    """
    rng = np.random.default_rng(seed)
    patients = np.cumsum(rng.random(num_images) < 1 / images_per_patient)
    habit = rng.normal(0, 0.5, size=int(patients.max(initial=0)) + 1)[patients]
    boxes = []
    for image in range(num_images):
        boxes += [(image, int(rng.integers(num_classes)), _box(rng)) for _ in range(rng.integers(0, 4))]
    size = {"width": SIZE, "height": SIZE}
    annotations = {
        "images": [
            {"id": i + 1, "file_name": f"{i + 1}.png", "patient_id": f"p{p}", **size} for i, p in enumerate(patients)
        ],
        "categories": [{"id": k + 1, "name": f"class {k + 1}"} for k in range(num_classes)],
        "annotations": [
            {"id": n + 1, "image_id": image + 1, "category_id": category + 1, "bbox": box.tolist(),
             "area": float(box[2] * box[3]), "iscrowd": 0}
            for n, (image, category, box) in enumerate(boxes)
        ],
    }  # fmt: skip
    models = zip(skills, rng.spawn(len(skills)), strict=True)
    return annotations, [_predict(boxes, habit, skill, num_classes, false_positives, own) for skill, own in models]


def _predict(boxes, habit, skill, num_classes, false_positives, rng: np.random.Generator) -> Predictions:
    found = []
    for image, category, box in boxes:
        if rng.random() < DETECTED:
            corner = np.maximum(box[:2] + rng.normal(0, 0.15, 2) * box[2:], 0)
            found.append((image, category, np.concatenate([corner, box[2:]]), skill))
    for image, category in np.argwhere(np.ones((len(habit), num_classes))):
        found += [(int(image), int(category), _box(rng), 0.0) for _ in range(rng.poisson(false_positives))]
    return [
        {"image_id": image + 1, "category_id": category + 1, "bbox": box.tolist(),
         "score": float(1 / (1 + np.exp(-(mean + habit[image] + rng.normal()))))}
        for image, category, box, mean in found
    ]  # fmt: skip


def _box(rng: np.random.Generator) -> np.ndarray:
    corner, side = rng.uniform(0, 0.7 * SIZE, 2), rng.uniform(0.08 * SIZE, 0.28 * SIZE, 2)
    return np.concatenate([corner, side]).round(1)


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
