"""Derive the trainings of a plan, each with folder, config and states to score, and read their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from detectron2.config import CfgNode

from mdf_detectron.config import columns_read, flat_config, value_at
from mdf_detectron.config_file import get_mdf_cfg, load_config
from mdf_detectron.errors import ConfigError, ResultsError, UserError, shorten
from mdf_detectron.evaluation.coco import PREDICTIONS_FILE_NAME, Detections, GroundTruth
from mdf_detectron.evaluation.estimates import FoldedImages, concatenate_folds
from mdf_detectron.evaluation.metrics import metric_names
from mdf_detectron.evaluation.scoring import TASKS, task_settings
from mdf_detectron.experiments.plan import FULL, Plan, Variant, split_state
from mdf_detectron.experiments.study_data import OWN_SPLITS, StudyData, overrides_of_data
from mdf_detectron.fileio import read_json, write_json

if TYPE_CHECKING:
    from mdf_detectron.evaluation.late_fusion import Exponents

STUDY_FILE_NAME = "study.json"
ENTRY_FILE_NAME = "training.json"
"""Request of the training in a folder: config, data, and states to score."""

SCORES_FILE_NAME = "scores.json"
FAILURE_FILE_NAME = "failure.json"

CHOSEN_BY = ("VALIDATION.METRIC", "VALIDATION.PATIENCE", "TEST.EVAL_PERIOD", "SOLVER.MAX_ITER", "INPUT.IMAGE_SIZE")
"""Keys in which a training must be as its variant's config for published values to stand next to it."""

TRAIN_PART = "train"
"""Name of the predictions on images of the train split, used like the name of a record state."""

VAL_PART = "val"
"""Name of the predictions on the validation split, to which late fusion fits its exponents."""


def predictions_file(folder: Path, state: str) -> Path:
    """Return the path of the predictions with a state of the records, or of :data:`TRAIN_PART`."""
    return folder / "predictions" / quote(state, safe=" ") / PREDICTIONS_FILE_NAME


@dataclass(frozen=True)
class Training:
    """A training of a plan.

    Attributes:
        fold: may be :data:`~.study_data.OWN_SPLITS`.
        folder: ``<out>/<variant>/seed<k>[_fold<j>]``.
        config: name or path of the config file.
        opts: alternating config keys and values.
        datasets: split → registered data set name.
        states: states of the test records to score.
        train_images: number of images of the train split to score too.
        on_val: whether the validation split is predicted too.
        data_fingerprint: :attr:`StudyData.fingerprint`.
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
    on_val: bool
    data_fingerprint: str

    @property
    def label(self) -> str:
        """Short name for messages: the folder, relative to that of the study."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def wanted_states(self) -> set[str]:
        """States that a finished training has scores for, including :data:`TRAIN_PART` where it is requested."""
        return {*self.states, *([TRAIN_PART] if self.train_images else [])}

    def scores(self) -> dict[str, Any] | None:
        """Read the scores; None unless they cover every state that the plan asks for."""
        path = self.folder / SCORES_FILE_NAME
        scores = read_json(path, ResultsError) if path.is_file() else {"states": ()}
        return scores if self.wanted_states <= set(scores["states"]) else None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do; a report does without the predictions of the validation split."""
        return self.scores() is not None and (not self.on_val or predictions_file(self.folder, VAL_PART).is_file())

    def failure(self) -> str:
        """Read why the training is not finished."""
        path = self.folder / FAILURE_FILE_NAME
        return f"failed: {read_json(path, ResultsError)['reason']}" if path.is_file() else "not finished"

    def entry(self) -> dict[str, Any]:
        """Describe the training as JSON; a folder belongs to the training if its settings and data are the same."""
        return {
            "config": self.config,
            "opts": list(self.opts),
            "settings": flat_settings(self.cfg),
            "data": self.data_fingerprint,
            "datasets": dict(self.datasets),
        }

    def write_entry(self) -> None:
        """Write :data:`ENTRY_FILE_NAME`, which the worker reads."""
        extra = {"states": list(self.states), "train_images": self.train_images, "on_val": self.on_val}
        write_json(self.folder / ENTRY_FILE_NAME, {**self.entry(), **extra})


def make_trainings(plan: Plan, data: StudyData, out: Path, opts: Sequence[str] = ()) -> list[Training]:
    """List the trainings of a plan, in the order seed, fold, variant.

    Args:
        plan: result of :func:`~.plan.with_columns`.
        opts: config overrides of every training, as on a command line.

    Raises:
        ConfigError: a config is missing, or a key or value is invalid; the message names the variant.
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
        on_val=variant.name == plan.baseline and not columns and bool(data.schema.names),
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
    """Refuse a folder with other files or trainings of another plan; the error names the first key that differs."""
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
    """Describe the first key in which two flat configs differ; empty if they are equal.

    A key that did not exist before had the default that it has now.
    """
    before = {**flat_settings(get_mdf_cfg()), **before}
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            return f"{key} was {shorten(before.get(key))}, it is {shorten(now.get(key))} now"
    return ""


def flat_settings(cfg: CfgNode) -> dict[str, Any]:
    """Flatten a config to a JSON dict, without OUTPUT_DIR."""
    flat = flat_config(cfg)
    flat.pop("OUTPUT_DIR")
    return flat


@dataclass(frozen=True)
class Run:
    """A training and its results.

    Attributes:
        scores: contents of ``scores.json``; None if the training is not finished.
        failure: one line that says why it is not finished; empty if it is.
        detections: state of the records → detections on the test split; :data:`TRAIN_PART` → on the train split.
    """

    training: Training
    scores: Mapping[str, Any] | None
    failure: str = ""
    detections: Mapping[str, Detections] = field(default_factory=dict)


@dataclass(frozen=True)
class LateVariant:
    """Late fusion of a variant, as a variant of its own.

    Attributes:
        name, source: of it, and of the variant whose detections it updates.
        runs: those of the source with updated detections.
        exponents: label of a training → exponents.
    """

    name: str
    source: str
    runs: Sequence[Run]
    exponents: Mapping[str, Exponents]


@dataclass(frozen=True)
class StudyResults:
    """The plan, data and runs of a study.

    Attributes:
        runs: in the order of the trainings.
        test: images of the test splits.
        train: predicted images of the train splits; None without any.
        late: see :mod:`~mdf_detectron.experiments.late_fusion`; a variant without trainings of its own.
    """

    plan: Plan
    data: StudyData
    runs: Sequence[Run]
    test: FoldedImages
    train: FoldedImages | None
    late: LateVariant | None = None

    def finished(self, variant: str) -> list[Run]:
        runs = [*self.runs, *(self.late.runs if self.late else ())]
        return [run for run in runs if run.training.variant == variant and run.scores is not None]

    @cached_property
    def unlike_published(self) -> list[str]:
        """Say how data and trainings differ from those of the plan's published values."""
        made, found = self.data.arguments, ["the data are synthetic"] if self.data.synthetic else []
        found += ["the splits are folds"] if set(self.data.splits) != {OWN_SPLITS} else []
        found += [f"{key} of the data is {shorten(made.get(key))}, not {shorten(wanted)}"
                  for key, wanted in self.plan.published_on.items() if made.get(key) != wanted]  # fmt: skip
        for training in (run.training for run in self.runs if self.plan.variant(run.training.variant).published):
            own = load_config(training.config)
            found += [f"{key} is {now}, not {value_at(own, key)}" for key in CHOSEN_BY
                      if (now := value_at(training.cfg, key)) != value_at(own, key)]  # fmt: skip
        return list(dict.fromkeys(found))

    @property
    def with_published(self) -> bool:
        """Whether the plan's published values may stand next to this study's."""
        return bool(self.plan.published_on) and not self.unlike_published

    def absent_folds(self, variant: str) -> list[int]:
        """List the folds without a finished training of a variant."""
        finished = {run.training.fold for run in self.finished(variant)}
        return [fold for fold in self.data.splits if fold not in finished]

    def states(self, variant: str) -> tuple[str, ...]:
        """List the states of the records that a variant was scored with; empty without a finished training."""
        return next((run.training.states for run in self.finished(variant)), ())

    @property
    def variants(self) -> list[str]:
        """Names of the variants with a finished training, in plan order."""
        return [variant.name for variant in self.plan.variants if self.finished(variant.name)]

    @property
    def trained(self) -> list[str]:
        """Names of the variants with a finished training of their own."""
        return [name for name in self.variants if self.source(name) == name]

    def source(self, variant: str) -> str:
        """Return the variant whose trainings a variant is made of."""
        return self.late.source if self.late and variant == self.late.name else variant

    def title(self, variant: str) -> str:
        return self.plan.variant(variant).title


def read_results(plan: Plan, data: StudyData, trainings: Sequence[Training]) -> StudyResults:
    """Read the results of all trainings; raise :class:`ResultsError` if none is finished."""
    test = {fold: GroundTruth.load(splits["test"]) for fold, splits in data.splits.items()}
    train: dict[int, GroundTruth] = {}
    runs = []
    for training in trainings:
        scores = training.scores()  # scores win over a failure that a late second process wrote
        if scores is None:
            runs.append(Run(training, None, training.failure()))
            continue
        fold = training.fold
        if training.train_images and fold not in train:
            whole, ids = data.splits[fold]["train"], set(scores["states"][TRAIN_PART]["image_ids"])
            images = [image for image in whole.images if image["id"] in ids]
            boxes = [box for box in whole.annotations if box["image_id"] in ids]
            train[fold] = GroundTruth.load(replace(whole, images=images, annotations=boxes))
        truths = {state: (train if state == TRAIN_PART else test)[fold] for state in sorted(training.wanted_states)}
        found = {
            state: Detections.load(predictions_file(training.folder, state), truth) for state, truth in truths.items()
        }
        runs.append(Run(training, scores, "", found))
    if all(run.scores is None for run in runs):
        first = f"{runs[0].training.label}: {runs[0].failure}"
        raise ResultsError(f"none of {len(runs)} trainings is finished; the first is {first}")
    return StudyResults(plan, data, runs, concatenate_folds(test), concatenate_folds(train) if train else None)
