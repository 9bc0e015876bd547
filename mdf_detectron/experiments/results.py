"""The results of a study, read: every training's state, and its predictions with the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mdf_detectron.data.annotations import Annotations
from mdf_detectron.errors import ResultsError
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.estimates import FoldedImages, concatenate_folds
from mdf_detectron.experiments.plan import Plan
from mdf_detectron.experiments.study_data import StudyData
from mdf_detectron.experiments.trainings import TRAIN_PART, Training, predictions_file


@dataclass(frozen=True)
class Run:
    """A training and its results.

    Attributes:
        training: as planned.
        scores: of ``scores.json``; None where it is not finished.
        failure: why it is not, one line; empty where it is finished.
        detections: state of the records → detections on the test split; "train" → on a part of the train split.
    """

    training: Training
    scores: Mapping[str, Any] | None
    failure: str = ""
    detections: Mapping[str, Detections] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyResults:
    """Everything that the report is made of.

    Attributes:
        plan, data: of the study.
        runs: in the order of the trainings.
        test: images of the test splits.
        train: the images of the train splits that were predicted, or None.
    """

    plan: Plan
    data: StudyData
    runs: Sequence[Run]
    test: FoldedImages
    train: FoldedImages | None

    def finished(self, variant: str) -> list[Run]:
        """Return the finished runs of a variant."""
        return [run for run in self.runs if run.training.variant == variant and run.scores is not None]

    @property
    def with_published(self) -> bool:
        """Whether these are the data that the plan's published values are of."""
        return self.plan.published_on == self.data.name and not self.data.synthetic

    def absent_folds(self, variant: str) -> list[int]:
        """List the folds of which no training of a variant is finished."""
        finished = {run.training.fold for run in self.finished(variant)}
        return [fold for fold in self.data.splits if fold not in finished]

    def states(self, variant: str) -> tuple[str, ...]:
        """List the states of the records that a variant was scored with; none where no training is finished."""
        return next((run.training.states for run in self.finished(variant)), ())

    @property
    def variants(self) -> list[str]:
        """Names of the variants with a finished training, in the order of the plan."""
        return [variant.name for variant in self.plan.variants if self.finished(variant.name)]

    def title(self, variant: str) -> str:
        """Return a variant's title."""
        return self.plan.variant(variant).title


def read_results(plan: Plan, data: StudyData, trainings: Sequence[Training]) -> StudyResults:
    """Read the results of the trainings.

    Raises:
        ResultsError: no training is finished, or a file is broken.
    """
    test = {fold: GroundTruth.load(splits["test"]) for fold, splits in data.splits.items()}
    train: dict[int, GroundTruth] = {}
    runs = []
    for training in trainings:
        scores = training.scores()  # which count, whatever failure another process that came too late has noted
        if scores is None:
            runs.append(Run(training, None, training.failure()))
            continue
        fold = training.fold
        if training.train_images and fold not in train:
            ids = set(scores["states"][TRAIN_PART]["image_ids"])
            train[fold] = GroundTruth.load(_part(data.splits[fold]["train"], ids))
        truths = {state: (train if state == TRAIN_PART else test)[fold] for state in sorted(training.wanted_states)}
        found = {
            state: Detections.load(predictions_file(training.folder, state), truth) for state, truth in truths.items()
        }
        runs.append(Run(training, scores, "", found))
    if all(run.scores is None for run in runs):
        first = f"{runs[0].training.label}: {runs[0].failure}"
        raise ResultsError(f"none of {len(runs)} trainings is finished; the first is {first}")
    return StudyResults(plan, data, runs, concatenate_folds(test), concatenate_folds(train) if train else None)


def _part(annotations: Annotations, ids: set[Any]) -> Annotations:
    return replace(
        annotations,
        images=[image for image in annotations.images if image["id"] in ids],
        annotations=[box for box in annotations.annotations if box["image_id"] in ids],
    )
