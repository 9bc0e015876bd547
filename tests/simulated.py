"""Annotations of a known population, and predictions of models of a known skill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdf_detectron.evaluation.statistics import NUM_RESAMPLES, PairedTest, Statistic, bootstrap, difference_test

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


def paired_test(
    first: Statistic,
    second: Statistic,
    patients: np.ndarray,
    num_patients: int | np.ndarray,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Compare two models on the same resampled patients, as the package's estimator does side by side."""
    samples = bootstrap(lambda weights: second(weights) - first(weights), patients, num_resamples, seed)
    whole = np.ones((1, len(patients)))
    return difference_test((second(whole) - first(whole))[0], samples, num_patients)
