"""A plan and its data → the trainings, each with its folder, config and what it is scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from mdf_detectron.config import flat_config, fuses_1d, fuses_3d
from mdf_detectron.config_file import get_mdf_cfg, load_config
from mdf_detectron.errors import ConfigError, ResultsError, UserError, shorten
from mdf_detectron.evaluation.metrics import metric_names
from mdf_detectron.evaluation.scoring import TASKS, task_settings
from mdf_detectron.experiments.plan import FULL, Plan, Variant
from mdf_detectron.experiments.study_data import OWN_SPLITS, StudyData, overrides_of_data
from mdf_detectron.fileio import read_json, write_json

ENTRY_FILE_NAME = "training.json"
"""What a folder's training was asked to be."""

TRAIN_PART = "train"
"""Name, beside those of the record states, of the predictions on images of the train split."""

FORMAT = 1


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
        train_images: so many of the train split are scored too.
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
    def reads_record(self) -> bool:
        return fuses_3d(self.cfg) or fuses_1d(self.cfg)

    @property
    def wanted_states(self) -> set[str]:
        """Names of the predictions that a finished training has."""
        return {*self.states, *([TRAIN_PART] if self.train_images else [])}

    def entry(self) -> dict[str, Any]:
        """Describe the training as JSON; what is in it decides whether a folder is its own."""
        return {
            "format": FORMAT,
            "config": self.config,
            "opts": list(self.opts),
            "settings": flat_settings(self.cfg),
            "data": self.data_fingerprint,
            "datasets": dict(self.datasets),
        }


def make_trainings(plan: Plan, data: StudyData, out: Path, opts: Sequence[str] = ()) -> list[Training]:
    """List the trainings of a plan: seed by seed, each with every fold and variant.

    Args:
        plan: with its column sets filled in.
        out: folder of the study.
        opts: config overrides of every training, as on a command line.

    Raises:
        ConfigError: a config that is absent, or a key or value that does not fit; the message names the variant.
    """
    shown = {name for figure in plan.figures if figure.show == "generalization" for name in figure.variants}
    configs = {variant.name: _config(plan, variant, data, opts) for variant in plan.variants}
    check_metric(plan.metric, data.class_names)
    _check_subgroups(plan, data)
    found = []
    for seed in plan.seeds:
        for fold, splits in data.splits.items():
            for variant in plan.variants:
                found.append(
                    _training(
                        plan, variant, data, out, seed, fold, configs[variant.name],
                        len(splits["test"].images) if variant.name in shown else 0,
                    )
                )  # fmt: skip
    return found


def _config(plan: Plan, variant: Variant, data: StudyData, opts: Sequence[str]) -> list[Any]:
    try:
        of_data = overrides_of_data(data, variant.config, variant.columns)
        values = {**of_data, **plan.overrides, **variant.overrides}
        flat = [item for pair in values.items() for item in pair]
        return [*flat, *opts]
    except UserError as error:
        raise type(error)(f"variant '{variant.name}': {error}") from None


def _training(plan, variant, data, out, seed, fold, opts, train_images) -> Training:
    names = data.dataset_names(fold)
    opts = (*opts, "SEED", seed, "DATASETS.TRAIN", [names["train"]], "DATASETS.VAL", [names["val"]],
            "DATASETS.TEST", [])  # fmt: skip
    folder = Path(out) / variant.name / (f"seed{seed}" if fold == OWN_SPLITS else f"seed{seed}_fold{fold}")
    try:
        cfg = load_config(variant.config, list(opts))
    except UserError as error:
        raise type(error)(f"variant '{variant.name}': {error}") from None
    if plan.metric.startswith("segm") and not (cfg.MODEL.MASK_ON and data.has_masks):
        raise ConfigError(
            f"metric '{plan.metric}' is of masks, and variant '{variant.name}' has none; use bbox_iobb/AP50"
        )
    reads = fuses_3d(cfg) or fuses_1d(cfg)
    states = (FULL, *plan.records) if reads else (FULL,)
    return Training(variant.name, seed, fold, folder, variant.config, opts, cfg, names, states, train_images,
                    data.fingerprint)  # fmt: skip


def _check_subgroups(plan: Plan, data: StudyData) -> None:
    unknown = [name for name in plan.subgroups or () if name not in data.schema.names]
    if unknown:
        raise ConfigError(
            f"subgroups: {data.root} has no clinical column '{unknown[0]}'; it has {', '.join(data.schema.names)}"
        )


def check_metric(metric: str, class_names: Sequence[str]) -> None:
    """Raise :class:`ConfigError` unless the evaluation gives the metric "<table>/<name>"."""
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
    strange = [path.parent.parent for path in out.glob(f"*/*/{ENTRY_FILE_NAME}")
               if path.parent.parent.name not in variants]  # fmt: skip
    if strange:
        raise ResultsError(
            f"{strange[0]} holds trainings of another plan: this one has no variant '{strange[0].name}'; name another "
            "--out, or remove the folder"
        )
    entries = [t for t in trainings if (t.folder / ENTRY_FILE_NAME).is_file()]
    if out.is_dir() and any(out.iterdir()) and not entries and not (out / STUDY_FILE_NAME).is_file():
        raise ResultsError(f"{out} is not empty and holds no results of a study; name another --out")
    defaults = flat_settings(get_mdf_cfg()) if entries else {}
    for training in entries:
        made = read_json(training.folder / ENTRY_FILE_NAME, ResultsError)
        differing = _difference_of_entries(made, training.entry(), defaults)
        if differing:
            raise ResultsError(
                f"{training.folder} is a results folder of another plan: {differing}; name another --out, or remove "
                "the folder to train it again"
            )


STUDY_FILE_NAME = "study.json"


def _difference_of_entries(made: Any, wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    if not isinstance(made, Mapping) or made.get("format") != FORMAT:
        return "it was made by another version"
    if made.get("data") != wanted["data"]:
        return "its annotations or schema were others"
    # keys that an older version did not know stand at their defaults, which leave a training as it was
    return first_difference({**defaults, **(made.get("settings") or {})}, wanted["settings"])


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which of two flat configs' keys differs first; empty where none does."""
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            return f"{key} was {shorten(before.get(key))}, it is {shorten(now.get(key))} now"
    return ""


def write_entry(training: Training) -> None:
    """Write the training's entry to its folder."""
    extra = {"states": list(training.states), "train_images": training.train_images}
    write_json(training.folder / ENTRY_FILE_NAME, {**training.entry(), **extra})


def flat_settings(cfg: CfgNode) -> dict[str, Any]:
    """Flatten a config to JSON, without the folder that it writes to."""
    flat = flat_config(cfg)
    flat.pop("OUTPUT_DIR")
    return flat
