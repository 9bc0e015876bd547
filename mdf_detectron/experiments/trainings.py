"""A plan and its data → the trainings, each with its folder, its config, what it is scored on, and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from detectron2.config import CfgNode

from mdf_detectron.config import columns_read, flat_config
from mdf_detectron.config_file import load_config
from mdf_detectron.data.annotations import Annotations
from mdf_detectron.errors import ConfigError, ResultsError, UserError, shorten
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.estimates import FoldedImages, concatenate_folds
from mdf_detectron.evaluation.evaluator import PREDICTIONS_FILE_NAME
from mdf_detectron.evaluation.metrics import metric_names
from mdf_detectron.evaluation.scoring import TASKS, task_settings
from mdf_detectron.experiments.plan import FULL, Plan, Variant, split_state
from mdf_detectron.experiments.study_data import OWN_SPLITS, StudyData, overrides_of_data
from mdf_detectron.fileio import read_json, write_json

STUDY_FILE_NAME = "study.json"
ENTRY_FILE_NAME = "training.json"
"""What a folder's training was asked to be."""

SCORES_FILE_NAME = "scores.json"
FAILURE_FILE_NAME = "failure.json"

TRAIN_PART = "train"
"""Name, next to those of the record states, of the predictions on images of the train split."""


def predictions_file(folder: Path, state: str) -> Path:
    """Path of the predictions with a state of the records, or of :data:`TRAIN_PART`."""
    return folder / "predictions" / quote(state, safe=" ") / PREDICTIONS_FILE_NAME


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        variant, seed, fold: its place in the plan; the fold may be :data:`~.study_data.OWN_SPLITS`.
        folder: ``<out>/<variant>/seed<k>[_fold<j>]``.
        config: name or path of the config file.
        opts: config keys and values, alternating.
        cfg: the whole config.
        datasets: registered name of each split.
        states: of the test records that it is scored with.
        train_images: this many of the train split are scored too.
        data_fingerprint: of the folder that it is trained on.
    """

    variant: str
    seed: int
    fold: int
    folder: Path
    config: str
    opts: tuple[Any, ...]
    cfg: CfgNode
    datasets: Mapping[str, str]
    states: tuple[str, ...]
    train_images: int
    data_fingerprint: str

    @property
    def label(self) -> str:
        """Name for people: its folder below the study's."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def wanted_states(self) -> set[str]:
        """Names of the predictions that a finished training has."""
        return {*self.states, *([TRAIN_PART] if self.train_images else [])}

    def scores(self) -> dict[str, Any] | None:
        """Read its scores; None unless it has them for everything that the plan asks for."""
        path = self.folder / SCORES_FILE_NAME
        scores = read_json(path, ResultsError) if path.is_file() else {"states": ()}
        return scores if self.wanted_states <= set(scores["states"]) else None

    def failure(self) -> str:
        """Read why it is not finished."""
        path = self.folder / FAILURE_FILE_NAME
        return f"failed: {read_json(path, ResultsError)['reason']}" if path.is_file() else "not finished"

    def entry(self) -> dict[str, Any]:
        """Describe the training as JSON; what is in it decides whether a folder is its own."""
        return {
            "config": self.config,
            "opts": list(self.opts),
            "settings": flat_settings(self.cfg),
            "data": self.data_fingerprint,
            "datasets": dict(self.datasets),
        }

    def write_entry(self) -> None:
        """Write what it is asked to be to its folder."""
        extra = {"states": list(self.states), "train_images": self.train_images}
        write_json(self.folder / ENTRY_FILE_NAME, {**self.entry(), **extra})


def make_trainings(plan: Plan, data: StudyData, out: Path, opts: Sequence[str] = ()) -> list[Training]:
    """List the trainings of a plan: seed by seed, each with every fold and variant.

    Args:
        plan: with its columns filled in.
        out: folder of the study.
        opts: config overrides of every training, as on a command line.

    Raises:
        ConfigError: a config that is absent, or a key or value that does not fit; the message names the variant.
    """
    overrides = {variant.name: _overrides(plan, variant, data) for variant in plan.variants}
    _check_metric(plan.metric, data.class_names)
    unknown = [name for name in plan.subgroups or () if name not in data.schema.names]
    if unknown:
        raise ConfigError(
            f"subgroups: {data.root} has no clinical column '{unknown[0]}'; it has {', '.join(data.schema.names)}"
        )
    return [
        _training(plan, variant, data, Path(out), seed, fold, [*overrides[variant.name], *opts])
        for seed in plan.seeds
        for fold in data.splits
        for variant in plan.variants
    ]


def _overrides(plan: Plan, variant: Variant, data: StudyData) -> list[Any]:
    try:
        of_data = overrides_of_data(data, variant.config, variant.columns)
    except UserError as error:
        raise type(error)(f"variant '{variant.name}': {error}") from None
    return [item for pair in {**of_data, **plan.overrides, **variant.overrides}.items() for item in pair]


def _training(plan: Plan, variant: Variant, data: StudyData, out: Path, seed: int, fold: int, opts: list) -> Training:
    names = data.dataset_names(fold)
    opts = [*opts, "SEED", seed, "DATASETS.TRAIN", [names["train"]], "DATASETS.VAL", [names["val"]],
            "DATASETS.TEST", []]  # fmt: skip
    try:
        cfg = load_config(variant.config, opts)
    except UserError as error:
        raise type(error)(f"variant '{variant.name}': {error}") from None
    if plan.metric.startswith("segm") and not (cfg.MODEL.MASK_ON and data.has_masks):
        raise ConfigError(
            f"metric '{plan.metric}' is of masks, and variant '{variant.name}' has none; use bbox_iobb/AP50"
        )
    columns = columns_read(cfg)
    states = [state for state in plan.records if columns and split_state(state)[0] in ("", *columns)]
    compared = any(figure.show == "generalization" and variant.name in figure.variants for figure in plan.figures)
    return Training(
        variant=variant.name,
        seed=seed,
        fold=fold,
        folder=out / variant.name / (f"seed{seed}" if fold == OWN_SPLITS else f"seed{seed}_fold{fold}"),
        config=variant.config,
        opts=tuple(opts),
        cfg=cfg,
        datasets=names,
        states=(FULL, *states),
        train_images=len(data.splits[fold]["test"].images) if compared else 0,
        data_fingerprint=data.fingerprint,
    )


def _check_metric(metric: str, class_names: Sequence[str]) -> None:
    table, _, name = metric.partition("/")
    known = metric_names(class_names)
    if table not in task_settings(TASKS) or name not in known:
        raise ConfigError(
            f"metric '{metric}' is not measured; use one of {', '.join(task_settings(TASKS))}, a '/', and one of "
            f"{shorten(known, 200)}"
        )


def check_results_folder(out: Path, trainings: Sequence[Training]) -> None:
    """Refuse a folder in which one of the trainings was made by another plan, or that holds something else.

    Raises:
        ResultsError: the message names the training and the first key that differs, or the unknown variant.
    """
    out = Path(out)
    variants = {training.variant for training in trainings}
    for path in out.glob(f"*/*/{ENTRY_FILE_NAME}"):
        if (folder := path.parent.parent).name not in variants:
            raise ResultsError(
                f"{folder} holds trainings of another plan: this one has no variant '{folder.name}'; name another "
                "--out, or remove the folder"
            )
    entries = [training for training in trainings if (training.folder / ENTRY_FILE_NAME).is_file()]
    if out.is_dir() and any(out.iterdir()) and not entries and not (out / STUDY_FILE_NAME).is_file():
        raise ResultsError(f"{out} is not empty and holds no results of a study; name another --out")
    for training in entries:
        made, wanted = read_json(training.folder / ENTRY_FILE_NAME, ResultsError), training.entry()
        if not isinstance(made, Mapping) or made.get("data") != wanted["data"]:
            differing = "its annotations or schema were others"
        else:
            differing = first_difference(made.get("settings") or {}, wanted["settings"])
        if differing:
            raise ResultsError(
                f"{training.folder} is a results folder of another plan: {differing}; name another --out, or remove "
                "the folder to train it again"
            )


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which of two flat configs' keys differs first; empty where none does."""
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            return f"{key} was {shorten(before.get(key))}, it is {shorten(now.get(key))} now"
    return ""


def flat_settings(cfg: CfgNode) -> dict[str, Any]:
    """Flatten a config to JSON, without the folder that it writes to."""
    flat = flat_config(cfg)
    flat.pop("OUTPUT_DIR")
    return flat


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
