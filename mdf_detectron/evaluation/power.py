"""What difference a study can show, from simulated scores, and whether a detector has learned anything.

Two equally good detectors are simulated on the real ground truth (its images, patients, classes and boxes). Both find
every box; their scores are normal, those of boxes :data:`SKILL` above those of :data:`FALSE_BOXES` false boxes each, so
that AP50 is 50 to 60. The two scores of one box correlate by :data:`SHARED`, as those of two trainings do. The
project's bootstrap gives the interval of their difference, which any study of these patients would have; a true
difference of 1.43 times its half-width is shown (the interval excludes 0) in four of five studies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from mdf_detectron.data.annotations import Annotations
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.estimates import Estimator, Row, concatenate_folds
from mdf_detectron.evaluation.matching import mean_of_defined
from mdf_detectron.evaluation.metrics import average_precision
from mdf_detectron.evaluation.scoring import match_table
from mdf_detectron.evaluation.statistics import Statistic, TrainingSpread

SKILL, FALSE_BOXES, SHARED = 1.0, 3, 0.3

SPREAD = 2.0
"""Standard deviation of AP50 between training seeds, typical of this project's studies."""

FOUR_OF_FIVE = 1 + 0.84 / 1.96
"""Quantiles of the normal distribution for 80 % power and a 95 % interval, over that of the interval."""

RESAMPLES, PAIRS, MOST_BOXES = 200, 12, 4000
"""Bootstrap resamples of a simulated pair; most pairs, fewer where they would have more than so many boxes in all."""

FOLDS_TO_PROPOSE, LARGE_DIFFERENCE = 5, 4.0
"""Folds are proposed where a difference of AP50 must be larger than this to be shown."""

EXCHANGES, LEAST_AP50, LEAST_PATIENTS = 19, 2.0, 10
"""Exchanges of the images, lowest AP50 of a detector that has learned, and patients needed to tell."""


def shown_by(row: Row) -> float | None:
    """Return the true difference that four of five studies with the row's interval show; None without an interval."""
    return None if row["low"] is None or row["high"] is None else FOUR_OF_FIVE * (row["high"] - row["low"]) / 2


def smallest_difference(truths: Mapping[int, GroundTruth], seeds: int, seed: int = 0) -> float | None:
    """Simulate the smallest difference of AP50, in points, that a study would show; None for fewer than 2 patients.

    Args:
        truths: fold → ground truth of its test images.
        seeds: trainings of each model in a fold; with 1 the chance of training is left out, as in a report.
    """
    images = concatenate_folds(truths)
    estimator, patients = Estimator(images, RESAMPLES, seed), images.count_patients(images.boxes[None] > 0)
    std, freedom = np.array([SPREAD * np.sqrt(2 / (seeds * len(truths)))]), 2 * len(truths) * (seeds - 1)
    if patients[0] < 2:
        return None
    found = []
    count = int(np.clip(MOST_BOXES // images.boxes.sum(), 1, PAIRS))
    for rng in np.random.default_rng(seed).spawn(count):
        pairs = {fold: [ap50(truth, one) for one in simulate_pair(truth, rng)] for fold, truth in truths.items()}
        sides = [estimator.sampled({fold: [pair[side]] for fold, pair in pairs.items()}) for side in (0, 1)]
        training = TrainingSpread(std, freedom) if freedom else None
        found.append(shown_by(estimator.differences(["AP50"], *sides, patients, training)["AP50"]))
    return None if None in found else float(np.mean(found))


def simulate_pair(truth: GroundTruth, rng: np.random.Generator, gain: float = 0.0) -> tuple[Detections, Detections]:
    """Draw the detections of two detectors; the second one's boxes score higher by ``gain`` standard deviations."""
    real = np.flatnonzero(~truth.crowd)
    image = np.concatenate([truth.image[real], rng.integers(truth.num_images, size=FALSE_BOXES * len(real))])
    category = np.tile(truth.category[real], 1 + FALSE_BOXES)
    boxes = np.zeros((len(image), 4))  # a false box without area overlaps none
    boxes[: len(real)] = truth.boxes[real]
    shared, is_real = rng.normal(size=len(image)), np.arange(len(image)) < len(real)

    def detect(skill: float) -> Detections:
        own = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * rng.normal(size=len(image))
        return Detections(image, category, boxes, own + skill * is_real, None)

    return detect(SKILL), detect(SKILL + gain)


def ap50(truth: GroundTruth, detections: Detections) -> Statistic:
    """Make the statistic (B, I) weights → (B, 1) AP50 of boxes by IoBB, times 100."""
    matches = match_table(truth, detections, "bbox_iobb", thresholds=[0.5])
    return lambda weights: 100 * mean_of_defined(average_precision(matches, weights)[0][:, 0], -1)[:, None]


def patients_with_boxes(splits: Iterable[Annotations]) -> int:
    """Count the patients of all splits that have a box."""
    return sum(len({images[a["image_id"]] for a in one.annotations}) for one in splits
               for images in [{image["id"]: image["patient_id"] for image in one.images}])  # fmt: skip


def answer_in_words(
    truths: Mapping[int, GroundTruth], smallest: float | None, of: str, all_patients: int = 0, metric: str = "AP50"
) -> str:
    """Say what difference can be shown, and whether folds would help.

    Args:
        truths: fold → ground truth of its test images.
        smallest: of :func:`smallest_difference` or :func:`shown_by`.
        of: end of the first sentence, such as the number of seeds.
        all_patients: of :func:`patients_with_boxes`; 0 if there are folds already.
    """
    images = concatenate_folds(truths)
    patients, boxes = int(images.count_patients(images.boxes[None] > 0)[0]), int(images.boxes.sum())
    where = f"{patients} test patients with {boxes} ground-truth boxes{of}"
    if smallest is None:
        return f"Can these data answer? No: {where} give no interval."
    if smallest >= 100:
        return f"Can these data answer? No: {where} would show no difference; take more seeds or folds."
    text = f"Can these data answer? {where}: a difference of {smallest:.1f} points of {metric} would be shown in four "
    text += "of five such studies, smaller ones less often."
    if smallest > LARGE_DIFFERENCE and all_patients > 1.5 * patients:
        less = smallest * np.sqrt(patients / all_patients)
        text += f" With `--folds {FOLDS_TO_PROPOSE}` at `mdf prepare` all {all_patients} patients are tested: about "
        text += f"{less:.1f} points."
    return text


def has_learned(truths: Mapping[int, GroundTruth], detections: Mapping[int, Detections], seed: int = 0) -> bool:
    """Tell whether AP50 is above :data:`LEAST_AP50` and above chance.

    Chance is the same detections on other images: they are exchanged :data:`EXCHANGES` times, and a detector that has
    learned is above all of these (p ≤ 0.05). With fewer than :data:`LEAST_PATIENTS` patients it counts as learned.
    """
    images, rng = concatenate_folds(truths), np.random.default_rng(seed)
    if images.count_patients(images.boxes[None] > 0)[0] < LEAST_PATIENTS:
        return True

    def mean(of_folds: Mapping[int, Detections]) -> float:
        return float(np.mean([ap50(truths[f], one)(np.ones((1, truths[f].num_images))) for f, one in of_folds.items()]))

    value = mean(detections)
    exchanged = ({f: _exchange(truths[f], one, rng) for f, one in detections.items()} for _ in range(EXCHANGES))
    return value > LEAST_AP50 and all(value > mean(one) for one in exchanged)


def _exchange(truth: GroundTruth, detections: Detections, rng: np.random.Generator) -> Detections:
    """Move the detections of each image to another one, boxes scaled with the images' sizes."""
    order, target = rng.permutation(truth.num_images), np.empty(truth.num_images, dtype=np.int64)
    target[order] = np.roll(order, 1)
    sizes = np.array([(image.get("width") or 1, image.get("height") or 1) for image in truth.images], dtype=float)
    scale = np.tile(sizes[target] / sizes, 2)[detections.image]
    return replace(detections, image=target[detections.image], boxes=detections.boxes * scale, segmentations=None)
