"""Estimate metrics and their differences, and give a verdict, for a single run or a study of many.

A metric is the mean over folds of the mean over the trainings (seeds) of a fold, each on the fold's images; a single
run is one fold with one training. Patients are resampled over all folds at once; the spread between trainings that
differ only in the seed widens the intervals (:class:`~mdf_detectron.evaluation.statistics.TrainingSpread`).

Shapes: I images of all folds, B weightings, M metrics, R resamples. ``members`` are (I,) bool, the images to use, or
None for all; ``num_patients`` and ``training`` are defined in :mod:`~mdf_detectron.evaluation.statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mdf_detectron.evaluation import statistics
from mdf_detectron.evaluation.coco import GroundTruth
from mdf_detectron.fileio import finite_or_none

Row = Mapping[str, float | None]
"""An estimate: "value", "low", "high"; for a difference also "first", "second", "p_value", "least_p", among several
"corrected", and "untrained" where a side has learned nothing. None where undefined."""

ByFold = Mapping[int, Sequence[statistics.Statistic]]
"""Fold → for each training a statistic, (B, images of the fold) → (B, M)."""

ALPHA = 0.05
"""A difference is certain up to this corrected p value."""

UNSURE = ", not sure after correction"


def number(value: float | None, digits: int = 1) -> str:
    """Format a number, or a dash if it is None."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0 turns -0.0 into 0.0


def estimate(row: Row, digits: int = 1) -> str:
    """Format an estimate with its interval."""
    if row["value"] is None:
        return "–"
    if row["low"] is None:
        return f"{number(row['value'], digits)} (no interval)"
    return f"{number(row['value'], digits)} ({number(row['low'], digits)} to {number(row['high'], digits)})"


def p_text(row: Row) -> str:
    """Format a bootstrap p value, as "≤ least" if it is the smallest that this many resamples can give."""
    value, least = row["p_value"], row["least_p"]
    if value is None or least is None:
        return "–"
    return f"≤ {least:.2g}" if value <= least * 1.0001 else f"{value:.2g}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a difference.

    Attributes:
        direction: 1 better, -1 worse, 0 no difference shown; None if it could not be tested, or a side has learned
            nothing.
        certain: False if the interval excludes 0 but the corrected p value exceeds :data:`ALPHA`.
        row: the estimate, second minus first.
    """

    direction: int | None
    certain: bool
    row: Row

    @classmethod
    def of(cls, row: Row) -> Verdict:
        """Judge an estimate."""
        if row.get("untrained") or row["value"] is None or row["low"] is None or row["high"] is None:
            return cls(None, False, row)
        corrected = row.get("corrected")
        direction = 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0
        return cls(direction, not direction or corrected is None or corrected <= ALPHA, row)

    @property
    def word(self) -> str:
        """Say in a word or two whether the second is better."""
        if self.direction is None:
            return "not trained enough" if self.row.get("untrained") else "not tested"
        words = {1: "better", -1: "worse", 0: "no difference shown"}
        return f"{words[self.direction]}{'' if self.certain else UNSURE}"

    @property
    def numbers(self) -> str:
        """Format the difference with its interval, p value and, among several tests, corrected p value."""
        corrected = self.row.get("corrected")
        text = f"{estimate(self.row)} points, p {p_text(self.row)}"
        return text if corrected is None else f"{text}, {number(corrected, 3)} corrected for the number of comparisons"

    def of_record(self) -> str:
        """Say whether the record helps, if only the second model reads it."""
        if self.row.get("untrained"):
            return "Not trained enough: whether the record helps cannot be told from models that have learned nothing."
        if self.direction is None:
            return "Whether the record helps was not tested."
        if self.direction == 0:
            return "No difference shown: these data do not show that the record helps, nor that it harms."
        word = "helps" if self.direction > 0 else "harms"
        if not self.certain:
            return f"Not sure: the interval says that the record {word}; with this many comparisons that can be chance."
        return f"The record {word}."

    def of_more(self, second: str, first: str) -> str:
        """Say whether the second does more with the record than the first."""
        says = {1: f"{second} does more than {first}", -1: f"{second} does less than {first}",
                0: f"No difference between {first} and {second} is shown"}  # fmt: skip
        if self.direction is None:
            return f"Whether {second} does more than {first} was not tested."
        return f"{says[self.direction]}{'' if self.certain else UNSURE}."

    def of_change(self, change: str) -> str:
        """Say what the second loses by a change to the first, such as "with another patient's record"."""
        if self.direction is None:
            return f"The loss {change} was not tested."
        gained = {"value": _minus(self.row["value"]), "low": _minus(self.row["high"]), "high": _minus(self.row["low"])}
        said = {
            1: f"the same model loses {estimate(self.row)} points",
            -1: f"the same model is better, by {estimate(gained)} points",
            0: f"no difference is shown ({estimate(self.row)} points lost)",
        }
        return f"{change[0].upper()}{change[1:]} {said[self.direction]}{'' if self.certain else UNSURE}."


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


@dataclass(frozen=True)
class FoldedImages:
    """The images of all folds, one after the other.

    Attributes:
        truths, places: fold → ground truth, positions of its images.
        patients: (I,) number of each image's patient, the same in all folds.
        whole: all I images, without boxes.
    """

    truths: Mapping[int, GroundTruth]
    places: Mapping[int, slice]
    patients: np.ndarray
    whole: GroundTruth

    @cached_property
    def boxes(self) -> np.ndarray:
        """Count the ground-truth boxes of each image without crowds: (I,)."""
        counts = [np.bincount(one.image[~one.crowd], minlength=one.num_images) for one in self.truths.values()]
        return np.concatenate(counts)

    def count_patients(self, images: np.ndarray) -> np.ndarray:
        """Count the patients in each row of (M, I) bool: (M,) int64."""
        return np.array([len(np.unique(self.patients[row])) for row in images], dtype=np.int64)


def concatenate_folds(truths: Mapping[int, GroundTruth]) -> FoldedImages:
    """Concatenate the images of several folds."""
    places, images = {}, []
    for fold, truth in truths.items():
        places[fold] = slice(len(images), len(images) + truth.num_images)
        images += [{**image, "id": f"{fold}/{image['id']}"} for image in truth.images]
    whole = GroundTruth(tuple(images), (), (), (), *np.zeros((2, 0), int), *np.zeros((3, 0)), None)
    return FoldedImages(truths, places, statistics.patients_of(whole), whole)


@dataclass(frozen=True)
class Sampled:
    """A statistic's (M,) values and its (R, M) bootstrap samples."""

    values: np.ndarray
    samples: np.ndarray


class Estimator:
    """Estimate means over folds and trainings, with intervals and tests that resample patients."""

    def __init__(self, images: FoldedImages, num_resamples: int = statistics.NUM_RESAMPLES, seed: int = 0) -> None:
        self.images, self.num_resamples, self.seed = images, num_resamples, seed

    def statistic(self, by_fold: ByFold, members: np.ndarray | None = None) -> tuple[statistics.Statistic, np.ndarray]:
        """Make the statistic (B, members) → (B, M) that averages trainings, then folds; also the members' patients."""
        total, places = len(self.images.patients), self.images.places
        index = np.arange(total) if members is None else np.flatnonzero(members)

        def mean(weights: np.ndarray) -> np.ndarray:
            spread = np.zeros((len(weights), total))
            spread[:, index] = weights
            folds = [np.mean([one(spread[:, places[fold]]) for one in own], axis=0) for fold, own in by_fold.items()]
            return np.mean(folds, axis=0)

        return mean, np.unique(self.images.patients[index], return_inverse=True)[1]

    def rows(
        self,
        names: Sequence[str],
        by_fold: ByFold,
        num_patients: int | np.ndarray,
        *,
        training: statistics.TrainingSpread | None = None,
        members: np.ndarray | None = None,
        highest: float = 100.0,
    ) -> dict[str, dict[str, float | None]]:
        """Estimate averages, shares or areas from 0 to ``highest``: name → row."""
        statistic, patients = self.statistic(by_fold, members)
        columns = statistics.metric_intervals(statistic, patients, num_patients, self.num_resamples, self.seed,
                                   bounds=(0.0, highest), training=training)  # fmt: skip
        return _rows(names, ("value", "low", "high"), columns)

    def sampled(self, by_fold: ByFold, members: np.ndarray | None = None, num_resamples: int | None = None) -> Sampled:
        """Compute a statistic and its bootstrap samples; the same members give the same resamples."""
        statistic, patients = self.statistic(by_fold, members)
        samples = statistics.bootstrap(statistic, patients, num_resamples or self.num_resamples, self.seed)
        return Sampled(statistic(np.ones((1, len(patients))))[0], samples)

    def differences(
        self,
        names: Sequence[str],
        first: Sampled,
        second: Sampled,
        num_patients: int | np.ndarray,
        training: statistics.TrainingSpread | None = None,
    ) -> dict[str, dict[str, float | None]]:
        """Test second minus first, paired over the same resamples: name → row."""
        test = statistics.difference_test(second.values - first.values, second.samples - first.samples, num_patients,
                               training=training, seed=self.seed)  # fmt: skip
        keys = ("first", "second", "value", "low", "high", "p_value", "least_p")
        return _rows(names, keys, (first.values, second.values, *test))

    def totals(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum (I, M) counts over the images: (M,) totals, low and high ends."""
        patients = self.images.patients
        samples = statistics.bootstrap(lambda weights: weights @ counts, patients, self.num_resamples, self.seed)
        values = counts.sum(axis=0)
        return values, *statistics.interval(samples, values, statistics.count_patients(patients))


def _rows(names: Sequence[str], keys: Sequence[str], columns: Sequence[np.ndarray]) -> dict[str, dict]:
    values = zip(*columns, strict=True)
    return finite_or_none(
        {name: dict(zip(keys, map(float, row), strict=True)) for name, row in zip(names, values, strict=True)}
    )
