"""The results of a study, read: every training's state, and its predictions beside the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdf_detectron.data.annotations import Annotations
from mdf_detectron.errors import ResultsError
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.statistics import patients_of
from mdf_detectron.experiments.launch import finished_scores
from mdf_detectron.experiments.plan import Plan
from mdf_detectron.experiments.study_data import StudyData
from mdf_detectron.experiments.trainings import TRAIN_PART, Training
from mdf_detectron.experiments.worker import FAILURE_FILE_NAME, predictions_file
from mdf_detectron.fileio import read_json


@dataclass(frozen=True)
class Run:
    """A training and what it gave.

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
class FoldedImages:
    """The images of all folds, one after the other.

    Attributes:
        truths: fold → ground truth.
        places: fold → its images' places.
        patients: (I,) number of each image's patient, the same in all folds.
        whole: I images, without boxes.
    """

    truths: Mapping[int, GroundTruth]
    places: Mapping[int, slice]
    patients: np.ndarray
    whole: GroundTruth


def put_in_a_row(truths: Mapping[int, GroundTruth]) -> FoldedImages:
    """Put the images of several folds in a row."""
    places, images = {}, []
    for fold, truth in truths.items():
        places[fold] = slice(len(images), len(images) + truth.num_images)
        images += [{**image, "id": f"{fold}/{image['id']}"} for image in truth.images]
    whole = GroundTruth(tuple(images), (), (), (), *np.zeros((2, 0), int), *np.zeros((3, 0)), None)
    return FoldedImages(truths, places, patients_of(whole), whole)


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
        """Return the runs of a variant that gave something."""
        return [run for run in self.runs if run.training.variant == variant and run.scores is not None]

    @property
    def with_published(self) -> bool:
        """Whether these are the data that the plan's published values are of."""
        return self.plan.published_on == self.data.name and not self.data.synthetic

    def absent_folds(self, variant: str) -> list[int]:
        """List the folds of which no training of a variant is finished."""
        there = {run.training.fold for run in self.finished(variant)}
        return [fold for fold in self.data.splits if fold not in there]

    @property
    def variants(self) -> list[str]:
        """Names of the variants with a finished training, in the order of the plan."""
        return [variant.name for variant in self.plan.variants if self.finished(variant.name)]

    def title(self, variant: str) -> str:
        """Return a variant's title."""
        return self.plan.variant(variant).title


def read_results(plan: Plan, data: StudyData, trainings: Sequence[Training]) -> StudyResults:
    """Read what the trainings have left.

    Raises:
        ResultsError: no training is finished, or a file is broken.
    """
    scores = {training.label: _read_scores(training) for training in trainings}
    test = {fold: _truth(splits["test"]) for fold, splits in data.splits.items()}
    train: dict[int, GroundTruth] = {}
    for training in trainings:
        found = scores[training.label]
        if training.train_images and not isinstance(found, str) and training.fold not in train:
            ids = found["states"][TRAIN_PART]["image_ids"]
            train[training.fold] = _truth(data.splits[training.fold]["train"], set(ids))
    runs = [_run(training, scores[training.label], test, train) for training in trainings]
    if all(run.scores is None for run in runs):
        first = f"{runs[0].training.label}: {runs[0].failure}"
        raise ResultsError(f"none of {len(runs)} trainings is finished; the first is {first}")
    return StudyResults(plan, data, runs, put_in_a_row(test), put_in_a_row(train) if train else None)


def _truth(annotations: Annotations, ids: set[Any] | None = None) -> GroundTruth:
    images = [image for image in annotations.images if ids is None or image["id"] in ids]
    kept = {image["id"] for image in images}
    boxes = [box for box in annotations.annotations if box["image_id"] in kept]
    return GroundTruth.load({"images": images, "annotations": boxes, "categories": annotations.categories})


def _read_scores(training: Training) -> dict[str, Any] | str:
    """Read a training's scores, or why there are none."""
    scores, failure = finished_scores(training), training.folder / FAILURE_FILE_NAME
    if scores is not None:  # whatever another process that came too late has noted
        return scores
    return f"failed: {read_json(failure, ResultsError)['reason']}" if failure.is_file() else "not finished"


def _run(training: Training, scores: dict[str, Any] | str, test, train) -> Run:
    if isinstance(scores, str):
        return Run(training, None, scores)
    found = {}
    for state in sorted(training.wanted_states):
        truth = (train if state == TRAIN_PART else test)[training.fold]
        found[state] = Detections.load(predictions_file(training.folder, state), truth)
    return Run(training, scores, "", found)
