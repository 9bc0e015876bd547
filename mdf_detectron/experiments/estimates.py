"""Estimate the variants of a study: means over folds and seeds, paired tests, ensembles.

The training spread is the spread between trainings that differ only in the seed, pooled over variants and folds.

Shapes: I test images of all folds, M metrics.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.estimates import ByFold, Estimator, Row, Sampled, Verdict
from mdf_detectron.evaluation.matching import MAX_DETS, Matches, to_corners, to_sizes
from mdf_detectron.evaluation.metrics import metric_names, metric_support, metric_values
from mdf_detectron.evaluation.power import has_learned
from mdf_detectron.evaluation.scoring import match_table
from mdf_detectron.evaluation.statistics import NUM_RESAMPLES, Statistic, TrainingSpread, holm, pooled_spread
from mdf_detectron.evaluation.summary import SWEEP, mean_ap_and_ar, metric_statistic, sweep_rows
from mdf_detectron.experiments.plan import FULL
from mdf_detectron.experiments.trainings import TRAIN_PART, StudyResults

Side = tuple[str, str]
"""A variant and a state of the test records."""

NO_DETECTIONS = Detections(*np.zeros((2, 0), np.int64), np.zeros((0, 4)), np.zeros(0), None)

FUSION_IOU = 0.5
"""Smallest IoU with a running mean box at which another box is fused into it, in an ensemble."""


@dataclass(frozen=True)
class Comparison:
    """A test of the plan's metric between two models, or two states of the records of one model.

    Attributes:
        first, second: the difference is second minus first.
        trainings: number of trainings on each side.
    """

    first: Side
    second: Side
    verdict: Verdict
    trainings: tuple[int, int]

    @property
    def row(self) -> Row:
        return self.verdict.row


class StudyEstimator(Estimator):
    """Compute estimates of a study's results; matches and resamples are cached.

    Args:
        state: default state of the records; :data:`~.trainings.TRAIN_PART` estimates on the train images instead.
    """

    def __init__(
        self, results: StudyResults, num_resamples: int = NUM_RESAMPLES, seed: int = 0, state: str = FULL
    ) -> None:
        super().__init__(results.train if state == TRAIN_PART else results.test, num_resamples, seed)
        self.results, self.state = results, state
        self.table, self.metric = results.plan.metric.split("/")
        self.names = metric_names(results.data.class_names)
        self._kept: dict[Any, Any] = {}

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def detections(self, variant: str, state: str | None = None) -> dict[int, list[Detections]]:
        """Map each fold to the detections of a variant's finished trainings, one per seed."""
        state, found = state or self.state, {}
        for run in self.results.finished(variant):
            if state in run.detections:
                found.setdefault(run.training.fold, []).append(run.detections[state])
        return found

    def matches(self, variant: str, state: str | None = None) -> dict[int, list[Matches]]:
        """Match :meth:`detections` to the ground truth by the plan's table."""
        return self._once(
            ("matches", variant, state or self.state), lambda: self._match(self.detections(variant, state), self.table)
        )

    def _match(self, detections: Mapping[int, Sequence[Detections]], table: str, **options: Any) -> dict[int, list]:
        truths = self.images.truths
        return {f: [match_table(truths[f], one, table, **options) for one in own] for f, own in detections.items()}

    @cached_property
    def support(self) -> np.ndarray:
        """(M, I), the images that each metric is based on."""
        truths = self.images.truths.values()
        return np.hstack([metric_support(match_table(truth, NO_DETECTIONS, "bbox_iobb")) for truth in truths])

    @cached_property
    def sizes(self) -> np.ndarray:
        """(M,), the number of patients that each metric is based on."""
        return self.images.count_patients(self.support)

    @cached_property
    def spread(self) -> TrainingSpread | None:
        """Spread of a single training in every metric; None without repeated seeds."""
        return self.spread_of(_by_fold(self.matches(variant)) for variant in self.results.trained)

    def spread_of(self, models: Iterable[ByFold]) -> TrainingSpread | None:
        """Pool the spread of a single training in the statistics of several models; None without repeated seeds."""
        whole = {fold: np.ones((1, truth.num_images)) for fold, truth in self.images.truths.items()}
        return pooled_spread([np.array([one(whole[fold])[0] for one in own])
                              for by_fold in models for fold, own in by_fold.items()])  # fmt: skip

    def estimates(self, variant: str, state: str | None = None, folds: Collection[int] | None = None) -> dict[str, Row]:
        """Estimate every metric of a variant, over all its folds or only ``folds``."""
        matches = {f: found for f, found in self.matches(variant, state).items() if folds is None or f in folds}
        return self.rows(self.names, _by_fold(matches), self.sizes, training=_of_mean(self.spread, _count(matches)))

    def ensemble(self, variant: str) -> tuple[dict[int, int], dict[str, Row]]:
        """Estimate the ensemble of seeds in folds with several; return fold → number of seeds, and metric → row."""
        several = {fold: found for fold, found in self.detections(variant).items() if len(found) > 1}
        table = self.table if self.table.startswith("bbox") else "bbox_iobb"  # fusion yields boxes without masks
        fused = {fold: [fuse_detections(self.images.truths[fold], found)] for fold, found in several.items()}
        rows = self.rows(self.names, _by_fold(self._match(fused, table)), self.sizes) if several else {}
        return {fold: len(found) for fold, found in several.items()}, rows

    def sweep(self, variants: Sequence[str], table: str) -> dict[str, dict[str, dict[str, list[float | None]]]]:
        """Estimate AP and AR at every threshold of :data:`SWEEP`; return variant → rows of :func:`sweep_rows`."""
        by_fold = {
            name: {
                fold: [mean_ap_and_ar(one) for one in own]
                for fold, own in self._match(self.detections(name), table, thresholds=list(SWEEP)).items()
            }
            for name in variants
        }
        spread, size = self.spread_of(by_fold.values()), int(self.sizes[0])
        return {
            name: sweep_rows(self, own, len(SWEEP), size, _of_mean(spread, _count(own)))
            for name, own in by_fold.items()
        }

    def compare(
        self, first: Side, second: Side, members: np.ndarray | None = None, num_resamples: int | None = None
    ) -> Comparison:
        """Test the plan's metric of one side against the other, on the folds that both have.

        Args:
            members: (I,) bool, the images to test on; None for all.
            num_resamples: bootstrap resamples; None for those of the estimator.
        """
        sides = [self.matches(*first), self.matches(*second)]
        shared = tuple(fold for fold in sides[0] if fold in sides[1])
        if not shared:
            undefined = dict.fromkeys(("first", "second", "value", "low", "high", "p_value", "least_p", "corrected"))
            return Comparison(first, second, Verdict.of(undefined), (0, 0))
        counts = tuple(sum(len(side[fold]) for fold in shared) for side in sides)
        at = self.names.index(self.metric)
        members = np.ones(len(self.images.patients), dtype=bool) if members is None else members
        size = self.images.count_patients(self.support[[at]] & members)
        samples = (self._sampled(side, shared, members, num_resamples, at) for side in (first, second))
        training = self._spread_of_difference(first, second, counts, members)
        row = self.differences([self.metric], *samples, size, training)[self.metric]
        if self.untrained(first[0]) or self.untrained(second[0]):
            row = {**row, "untrained": 1.0}
        return Comparison(first, second, Verdict.of({**row, "corrected": row["p_value"]}), counts)

    def untrained(self, variant: str) -> bool:
        """Tell whether a variant's boxes, of one training a fold, are not above chance."""

        def tell() -> bool:
            return not has_learned(self.images.truths, {f: one[0] for f, one in self.detections(variant, FULL).items()})

        return self._once(("untrained", variant), tell)

    def _sampled(
        self, side: Side, folds: Sequence[int], members: np.ndarray, num_resamples: int | None, at: int
    ) -> Sampled:
        """Resample the metric of a side; all sides share the same resamples of images."""

        def make() -> Sampled:
            matches = self.matches(*side)
            found = self.sampled(_by_fold({fold: matches[fold] for fold in folds}), members, num_resamples)
            return Sampled(found.values[[at]], found.samples[:, [at]])

        return self._once(("samples", side, folds, members.tobytes(), num_resamples), make)

    def _spread_of_difference(
        self, first: Side, second: Side, counts: tuple[int, int], members: np.ndarray
    ) -> TrainingSpread | None:
        """Estimate the training spread of a difference on some images; None if it is unknown.

        Two models are independent trainings, so their variances add up. A model and its late fusion are the same
        trainings, and so is one model with two states of its records, whose difference varies less: that spread is
        pooled over models and states. Differences of one training from several states share a side and correlate by
        about 1/2, so they have fewer degrees of freedom.
        """
        if self.results.source(first[0]) != self.results.source(second[0]):
            by_fold = [self._values((name, self.state), fold, members) for name in self.results.trained
                     for fold in self.matches(name)]  # fmt: skip
            return _of_mean(pooled_spread(by_fold), 1 / (1 / counts[0] + 1 / counts[1]))
        if first[0] != second[0]:
            by_fold = [self._values(first, fold, members) - self._values(second, fold, members)
                     for fold in self.matches(*first)]  # fmt: skip
            return _of_mean(pooled_spread(by_fold), counts[0])
        by_fold, states = [], set()
        for name in self.results.variants:
            for state in self.results.states(name):
                if state != FULL:
                    states.add(state)
                    by_fold += [self._values((name, FULL), fold, members) - self._values((name, state), fold, members)
                              for fold in self.matches(name, state)]  # fmt: skip
        spread = pooled_spread(by_fold)
        if spread is None:
            return None
        return TrainingSpread(spread.std, spread.freedom / (1 + (len(states) - 1) / 4)).of_mean(counts[0])

    def _values(self, side: Side, fold: int, members: np.ndarray) -> np.ndarray:
        """Compute the plan's metric of each of the S trainings of a fold on some images, (S, 1)."""

        def make() -> np.ndarray:
            at, own = self.names.index(self.metric), members[self.images.places[fold]].astype(float)
            return np.array([metric_values(one, own[None])[1][0, [at]] for one in self.matches(*side)[fold]])

        return self._once(("values", side, fold, members.tobytes()), make)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p values of all comparisons together by Holm's method."""
    p_values = holm([np.nan if one.row["p_value"] is None else one.row["p_value"] for one in comparisons])
    return [
        replace(one, verdict=Verdict.of({**one.row, "corrected": None if np.isnan(p) else float(p)}))
        for one, p in zip(comparisons, p_values, strict=True)
    ]


def _by_fold(matches: Mapping[int, Sequence[Matches]]) -> ByFold:
    return {fold: [metric_statistic(one) for one in of_fold] for fold, of_fold in matches.items()}


def _count(by_fold: Mapping[int, Sequence[Matches | Statistic]]) -> int:
    return sum(map(len, by_fold.values()))


def _of_mean(spread: TrainingSpread | None, count: float) -> TrainingSpread | None:
    return None if spread is None else spread.of_mean(count)


def fuse_detections(truth: GroundTruth, detections: Sequence[Detections]) -> Detections:
    """Fuse the boxes of several models on the images of ``truth`` by weighted box fusion (Solovyev et al., 2021).

    Boxes are fused per class. The score of a fused box is the mean score of its boxes times the fraction of models that
    contributed one; each image keeps the ten best boxes.
    """
    from ensemble_boxes import weighted_boxes_fusion  # in the extra "experiments"

    images, categories, boxes, scores = [], [], [], []
    for image in range(truth.num_images):
        own = [np.flatnonzero(one.image == image) for one in detections]
        if not sum(map(len, own)):
            continue
        corners = [to_corners(one.boxes[index]) for one, index in zip(detections, own, strict=True)]
        every = np.concatenate(corners)
        low, side = every.min(), max(float(np.ptp(every)), 1.0)  # ensemble_boxes needs 0 to 1; scaling keeps the IoU
        fused, score, label = weighted_boxes_fusion(
            [((one - low) / side).tolist() for one in corners],
            [one.scores[index].tolist() for one, index in zip(detections, own, strict=True)],
            [one.category[index].tolist() for one, index in zip(detections, own, strict=True)],
            iou_thr=FUSION_IOU,
        )
        best = np.argsort(-score, kind="stable")[:MAX_DETS]
        fused = fused[best] * side + low
        images.append(np.full(len(best), image))
        categories.append(label[best].astype(np.int64))
        boxes.append(to_sizes(fused))
        scores.append(score[best])
    return Detections(*map(np.concatenate, (images, categories, boxes, scores)), None) if images else NO_DETECTIONS
