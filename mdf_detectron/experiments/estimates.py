"""Estimates of a study: means over folds and seeds, with intervals over patients and trainings, and paired tests.

A metric of a variant is the mean over its folds of the mean over the trainings (seeds) of the fold, each on the fold's
test images. Patients are resampled over all folds at once; the chance of training is the spread of trainings that
differ in the seed alone, pooled over variants and folds (:mod:`~mdf_detectron.evaluation.training_noise`).

Shapes: I test images of all folds, B weightings, M metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import MAX_DETS, Matches, match
from mdf_detectron.evaluation.metrics import metric_names, metric_support, metric_values, overlap_thresholds
from mdf_detectron.evaluation.scoring import task_settings
from mdf_detectron.evaluation.statistics import NUM_RESAMPLES, Statistic, bootstrap, difference_test, metric_intervals
from mdf_detectron.evaluation.training_noise import TrainingSpread, holm, pooled_spread
from mdf_detectron.experiments.plan import FULL
from mdf_detectron.experiments.results import StudyResults
from mdf_detectron.experiments.trainings import TRAIN_PART
from mdf_detectron.fileio import finite_or_none

Cells = Mapping[int, Sequence[Statistic]]
"""Fold → a statistic (B, images of the fold) → (B, M) for each training."""

Row = dict[str, float | None]
"""An estimate: "value", "low", "high"; of a test also "p_value", "least_p" and "corrected"."""

Side = tuple[str, str]
"""A variant, and a state of its records."""

ALPHA = 0.05
"""Of the corrected p values."""

UNSURE = ", not sure after correction"
"""Ends a verdict of an interval that leaves out 0 where the corrected p value does not."""


@dataclass(frozen=True)
class Comparison:
    """A test of two models, or of one model with two states of its records.

    Attributes:
        first, second: the value is second minus first.
        row: of the plan's metric; None where undefined.
        trainings: on each side.
    """

    first: Side
    second: Side
    row: Row
    trainings: tuple[int, int]

    @property
    def verdict(self) -> str:
        """Say "better" or "worse" where the interval leaves out 0, else "no difference shown"; "not tested" without.

        Where the corrected p value is above :data:`ALPHA`, :data:`UNSURE` stands behind the first two.
        """
        if self.row["value"] is None or self.row["low"] is None:
            return "not tested"
        if self.row["low"] <= 0 <= self.row["high"]:
            return "no difference shown"
        sure = self.row["corrected"] is None or self.row["corrected"] <= ALPHA
        return f"{'better' if self.row['low'] > 0 else 'worse'}{'' if sure else UNSURE}"


class Estimator:
    """Computes the estimates of a study's results; what has been matched is kept.

    Args:
        results: of :func:`~mdf_detectron.experiments.results.read_results`.
        num_resamples, seed: of the bootstrap.
        state: name of the predictions that all variants have: on the test images, or on those of the train split.
    """

    def __init__(
        self, results: StudyResults, num_resamples: int = NUM_RESAMPLES, seed: int = 0, state: str = FULL
    ) -> None:
        self.results, self.num_resamples, self.seed, self.state = results, num_resamples, seed, state
        self.images = results.train if state == TRAIN_PART else results.test
        self.table, self.metric = results.plan.metric.split("/")
        self.names = metric_names(results.data.class_names)
        self._kept: dict[Side, dict[int, list[Matches]]] = {}
        self._samples_kept: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        self._values_kept: dict[tuple, np.ndarray] = {}

    def matches(self, variant: str, state: str | None = None) -> dict[int, list[Matches]]:
        """Match the detections of a variant's finished trainings: fold → one for each seed."""
        state = state or self.state
        if (variant, state) not in self._kept:
            found: dict[int, list[Matches]] = {}
            for run in self.results.finished(variant):
                if state in run.detections:
                    truth = self.images.truths[run.training.fold]
                    found.setdefault(run.training.fold, []).append(
                        match_table(truth, run.detections[state], self.table)
                    )
            self._kept[variant, state] = found
        return self._kept[variant, state]

    @cached_property
    def sizes(self) -> np.ndarray:
        """(M,) patients that each metric rests on."""
        nothing = {fold: Detections(*np.zeros((2, 0), int), np.zeros((0, 4)), np.zeros(0), None)
                   for fold in self.images.truths}  # fmt: skip
        rows = np.hstack([metric_support(match_table(truth, nothing[fold], "bbox_iobb"))
                          for fold, truth in self.images.truths.items()])  # fmt: skip
        return np.array([len(np.unique(self.images.patients[row])) for row in rows])

    @cached_property
    def spread(self) -> TrainingSpread | None:
        """Chance of one training in every metric, pooled over variants and folds; None without repeated seeds."""
        return pooled_spread(
            [
                np.array([metric_values(one)[1] for one in of_fold])
                for variant in self.results.variants
                for of_fold in self.matches(variant).values()
            ]
        )

    def estimates(self, variant: str, state: str | None = None, folds: Collection[int] | None = None) -> dict[str, Row]:
        """Estimate every metric of a variant, over all its folds or some."""
        matches = {f: found for f, found in self.matches(variant, state).items() if folds is None or f in folds}
        count = sum(map(len, matches.values()))
        return self.intervals(self.names, _cells(matches), self.sizes, of_mean(self.spread, count))

    def intervals(
        self,
        names: Sequence[str],
        cells: Cells,
        num_patients: int | np.ndarray,
        training: TrainingSpread | None = None,
        highest: float = 100.0,
    ) -> dict[str, Row]:
        """Estimate any means over the cells: name → row."""
        columns = metric_intervals(
            self.mean_of(cells), self.images.patients, num_patients, self.num_resamples, self.seed,
            bounds=(0.0, highest), training=training,
        )  # fmt: skip
        keys, rows = ("value", "low", "high"), zip(*columns, strict=True)
        return finite_or_none(
            {name: dict(zip(keys, map(float, row), strict=True)) for name, row in zip(names, rows, strict=True)}
        )

    def mean_of(self, cells: Cells) -> Statistic:
        """Make the statistic (B, I) → (B, M): the mean over folds of the mean over a fold's trainings."""
        places = self.images.places

        def statistic(weights: np.ndarray) -> np.ndarray:
            folds = [np.mean([one(weights[:, places[fold]]) for one in cells[fold]], axis=0) for fold in cells]
            return np.mean(folds, axis=0)

        return statistic

    def compare(
        self, first: Side, second: Side, members: np.ndarray | None = None, num_resamples: int | None = None
    ) -> Comparison:
        """Test the plan's metric of one side against the other, on the folds that both have.

        Args:
            members: (I,) bool, the images to test on; all when None.
            num_resamples: those of the estimator when None.
        """
        num_resamples = num_resamples or self.num_resamples
        sides = [self.matches(*first), self.matches(*second)]
        shared = [fold for fold in sides[0] if fold in sides[1]]
        matches = [{fold: side[fold] for fold in shared} for side in sides]
        counts = tuple(sum(map(len, side.values())) for side in matches)
        undefined: Row = dict.fromkeys(("value", "low", "high", "p_value", "least_p", "corrected"))
        if not shared:
            return Comparison(first, second, undefined, (0, 0))
        at = self.names.index(self.metric)
        whole = np.ones(len(self.images.patients), dtype=bool)
        part = whole if members is None else members
        index = np.flatnonzero(part)
        size = len(np.unique(self.images.patients[part & self._with_boxes]))
        training = self._spread_of_difference(first, second, counts, index)
        (value_a, a), (value_b, b) = (self._samples(side, tuple(shared), index, num_resamples)
                                      for side in (first, second))  # fmt: skip
        test = difference_test((value_b - value_a)[[at]], (b - a)[:, [at]], size, training=training, seed=self.seed)
        columns = (test.difference, test.low, test.high, test.p_value, test.least_p)
        row = finite_or_none(
            dict(zip(("value", "low", "high", "p_value", "least_p"), (float(c[0]) for c in columns), strict=True))
        )
        return Comparison(first, second, {**row, "corrected": row["p_value"]}, counts)

    def _samples(
        self, side: Side, folds: tuple[int, ...], index: np.ndarray, num_resamples: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute a side's (M,) values and (R, M) bootstrap samples; the same resamples of the images for all."""
        key = (side, folds, index.tobytes(), num_resamples)
        if key not in self._samples_kept:
            matches = self.matches(*side)
            whole = self.mean_of(_cells({fold: matches[fold] for fold in folds}))

            def statistic(weights: np.ndarray) -> np.ndarray:
                spread = np.zeros((len(weights), len(self.images.patients)))
                spread[:, index] = weights
                return whole(spread)

            patients = np.unique(self.images.patients[index], return_inverse=True)[1]
            self._samples_kept[key] = (
                statistic(np.ones((1, len(index))))[0],
                bootstrap(statistic, patients, num_resamples, self.seed),
            )
        return self._samples_kept[key]

    @cached_property
    def _with_boxes(self) -> np.ndarray:
        found = np.zeros(len(self.images.patients), dtype=bool)
        for fold, truth in self.images.truths.items():
            found[self.images.places[fold]][truth.image[~truth.crowd]] = True
        return found

    def _spread_of_difference(self, first: Side, second: Side, counts: tuple[int, int], index: np.ndarray):
        """Find the chance of training in a difference, on some images; None where it cannot be told.

        Two models are trained apart. A model with another state of its records is the same training: what its full
        records gain varies less, and that spread is pooled over models and states. Differences of one training from
        several states share a side, so they correlate by about a half and count for less than as many trainings.
        """
        if first[0] != second[0]:
            cells = [self._values((name, self.state), fold, index) for name in self.results.variants
                     for fold in self.matches(name)]  # fmt: skip
            return of_mean(pooled_spread(cells), 1 / (1 / counts[0] + 1 / counts[1]))
        cells, states = [], set()
        for name in self.results.variants:
            for state in self.results.finished(name)[0].training.states:
                if state != FULL:
                    states.add(state)
                    cells += [self._values((name, FULL), fold, index) - self._values((name, state), fold, index)
                              for fold in self.matches(name, state)]  # fmt: skip
        spread = pooled_spread(cells)
        if spread is None:
            return None
        return TrainingSpread(spread.std, spread.freedom / (1 + (len(states) - 1) / 4)).of_mean(counts[0])

    def _values(self, side: Side, fold: int, index: np.ndarray) -> np.ndarray:
        """Compute the plan's metric of each training of a fold on some images, (S, 1)."""
        key = (side, fold, index.tobytes())
        if key not in self._values_kept:
            weights = np.zeros(len(self.images.patients))
            weights[index] = 1.0
            at, own = self.names.index(self.metric), weights[self.images.places[fold]]
            self._values_kept[key] = np.array([metric_values(one, own)[1][[at]] for one in self.matches(*side)[fold]])
        return self._values_kept[key]


def match_table(truth: GroundTruth, detections: Detections, table: str, thresholds=None) -> Matches:
    """Match detections as a table of the evaluation does.

    Args:
        table: "bbox_iobb", "bbox", "segm_iobb" or "segm".
        thresholds: overlaps; those of the metrics when None.
    """
    iou_type, overlap = task_settings([table.split("_")[0]])[table]
    wanted = overlap_thresholds() if thresholds is None else thresholds
    return match(truth, detections, overlap=overlap, iou_type=iou_type, thresholds=wanted, max_dets=MAX_DETS)


def of_mean(spread: TrainingSpread | None, count: float) -> TrainingSpread | None:
    """Return the chance of training in a mean of ``count`` trainings, if it can be told."""
    return None if spread is None else spread.of_mean(count)


def _cells(matches: Mapping[int, Sequence[Matches]]) -> Cells:
    return {fold: [_metrics(one) for one in of_fold] for fold, of_fold in matches.items()}


def _metrics(matches: Matches) -> Statistic:
    return lambda weights: metric_values(matches, weights)[1]


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p values of all comparisons together, by Holm's method."""
    p_values = holm([np.nan if one.row["p_value"] is None else one.row["p_value"] for one in comparisons])
    rows = [{**one.row, "corrected": None if np.isnan(p) else float(p)}
            for one, p in zip(comparisons, p_values, strict=True)]  # fmt: skip
    return [replace(one, row=row) for one, row in zip(comparisons, rows, strict=True)]
