"""A plan: which models are trained, with which seeds, on which folds of which data set, and what the report shows.

A plan is a YAML file, one of the package's (``paper``, ``does_it_help``, ``fusions``) or your own::

    name: does_it_help
    dataset: mimic_eye                      # a prepared folder, by name or path
    config: mimic_eye/mdf_net.yaml          # of every variant that names none
    seeds: [1, 2, 3]
    folds: available                        # or all, or [0, 1]; left out: the folder's own splits
    overrides: {SOLVER.MAX_ITER: 9000}      # of every training
    variants:
      - {name: image_only, title: Image-only, overrides: {MODEL.CLINICAL.FUSION_3D: false}}
      - {name: fused, columns: [age, gender]}
    records: [half, removed, shuffled, age shuffled, each removed]   # states of the test records, see CHANGES
    figures:
      - {name: places, show: comparison, variants: [image_only, fused]}
    question: {baseline: image_only, model: fused}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from mdf_detectron.data.record_changes import EXCHANGED, hide_values, permute_records, remove_records
from mdf_detectron.errors import ConfigError, find_doubled, shorten
from mdf_detectron.fileio import read_yaml, shorten_path
from mdf_detectron.validation import Strict, validated

PLANS = Path(__file__).parent / "plans"
"""Plans that ship with the package."""

FULL = "full"

CHANGES = {"half": "with half of its values hidden", "removed": "without any record",
           "shuffled": EXCHANGED}  # fmt: skip
"""States of the test records besides :data:`FULL`. "<column> removed" and "<column> shuffled" change one column, with
"each" for the column every column in turn."""

EACH = "each"

MOST_IN_A_CHART = 4
"""Variants that a chart of curves or counts tells apart by color."""

COLUMN_SETS = "sets"

NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
"""Of names that become folders and files."""

FOLD_WORDS = ("all", "available")
"""All folds of the folder, which must have some; or all where it has some, else its own splits."""

RESERVED = ("SEED", "OUTPUT_DIR")
"""Config keys that follow from the plan."""


def split_state(state: str) -> tuple[str, str]:
    """Split a state of the records into its column, empty for the whole record, and the change."""
    column, _, change = state.rpartition(" ")
    return column.strip(), change


def change_records(state: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records in a state."""
    column, change = split_state(state)
    columns = [column] if column else None
    if change == "removed":
        return remove_records(records, columns)
    if change == "shuffled":
        return permute_records(records, columns)
    return hide_values(records, 0.5) if change == "half" else list(records)


def state_words(state: str) -> str:
    """Describe a state of the records: "with another patient's age"."""
    column, change = split_state(state)
    return CHANGES[state] if not column else {"removed": "without {}", "shuffled": "with another patient's {}"}[
        change
    ].format(column)  # fmt: skip


def _file_name(name: str) -> str:
    if not name.strip() or not set(name) <= NAME_CHARACTERS:
        raise ValueError(f"{shorten(name)} becomes a folder or file; use letters, digits, '-' and '_'")
    return name


def _config_keys(overrides: dict[str, Any]) -> dict[str, Any]:
    if nested := [key for key, item in overrides.items() if isinstance(item, Mapping)]:
        key = f"{nested[0]}.{next(iter(overrides[nested[0]]), 'KEY')}"
        raise ValueError(f"keys below {nested[0]}; write whole names: {key}: VALUE")
    if reserved := [key for key in overrides if key in RESERVED or key.startswith("DATASETS.")]:
        raise ValueError(f"{reserved[0]} is set by the plan itself (seeds, folds, dataset); leave it out")
    return overrides


def _titled(data: Any) -> Any:
    """Let the name be the title where there is none."""
    return {**data, "title": data.get("title") or data.get("name")} if isinstance(data, Mapping) else data


class Variant(Strict):
    """A model: a config and what is changed in it.

    Attributes:
        name: of its folder, and in figures.
        title: in the report.
        config: name or path of the config file; the plan's by default.
        overrides: config keys and values.
        columns: clinical columns that it reads; None: those of the config, where the data have them, else all;
            "sets" makes several variants, one for each set of :func:`column_sets`.
        published: {"AP50", "AR50", "AP50-<class>", ..., "TP", "FP", "FN": value} as published; of "sets" by set.
    """

    name: str
    title: str = ""
    config: str = ""
    overrides: dict[str, Any] = {}
    columns: Sequence[str] | str | None = None
    published: dict[str, Any] = {}

    _title = model_validator(mode="before")(_titled)
    _name = field_validator("name")(_file_name)
    _overrides = field_validator("overrides")(_config_keys)

    @field_validator("columns", mode="plain")
    @classmethod
    def _columns(cls, value: Any) -> Any:
        names = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
        if not names and value is not None and value != COLUMN_SETS:
            raise ValueError(f"{shorten(value)}; write a list of names, or '{COLUMN_SETS}'")
        return value

    @model_validator(mode="after")
    def _published(self) -> Variant:
        for published in self.published.values() if self.columns == COLUMN_SETS else [self.published]:
            values = published.values() if isinstance(published, Mapping) else [published]
            if not all(type(value) in (int, float) for value in values):
                raise ValueError(f"published is {shorten(self.published)}; write {{AP50: 31.7, AR50: 54.8}}")
        return self


class PlannedFigure(Strict):
    """A part of the report.

    Attributes:
        name: in the report's file names.
        show: what it shows.
        variants: names, in order; all by default, none of what needs no model.
        reference: the variant that the others of a comparison are tested against; the first by default.
        title: heading.
        note: a paragraph below, on what was published.
    """

    name: str
    show: Literal["counts", "comparison", "records", "correlation", "generalization", "threshold_sweep"]
    variants: list[str] = []
    reference: str = ""
    title: str = ""
    note: str = ""

    _title = model_validator(mode="before")(_titled)
    _name = field_validator("name")(_file_name)


class Question(Strict):
    """Does the record help: the variants without and with it."""

    baseline: str
    model: str


class Plan(Strict):
    """See the module.

    Attributes:
        metric: "<table>/<metric>" that is tested.
        question: whether the record helps; None: it is not asked.
        subgroups: clinical columns by which the answer is divided; None: age and those of two or more categories.
        published_on: data set that the published values are of; with another they are left out.
        description: first paragraph of the report.
    """

    name: str
    dataset: str
    variants: list[Variant]
    config: str | None = None
    seeds: list[int] = [1]
    folds: Sequence[int] | str = ()
    overrides: dict[str, Any] = {}
    records: list[str] = []
    figures: list[PlannedFigure] = []
    metric: str = "bbox_iobb/AP50"
    question: Question | None = None
    subgroups: list[str] | None = None
    published_on: str = ""
    description: str = ""

    _overrides = field_validator("overrides")(_config_keys)

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        if not value or min(value) < 0 or len(set(value)) < len(value):
            raise ValueError(f"{value}; write a list of different whole numbers from 0 on")
        return value

    @field_validator("folds", mode="plain")
    @classmethod
    def _folds(cls, value: Any) -> Any:
        value = [] if value is None else value
        numbers = isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)
        if not (numbers and len(set(value)) == len(value)) and value not in FOLD_WORDS:
            words = " or ".join(FOLD_WORDS)
            raise ValueError(f"{shorten(value)}; write a list of different whole numbers from 0 on, or {words}")
        return value

    @field_validator("records")
    @classmethod
    def _records(cls, states: list[str]) -> list[str]:
        for state in states:
            column, change = split_state(state)
            if change not in CHANGES or (column and change == "half"):
                known = f"{', '.join(CHANGES)}, '<column> removed', '<column> shuffled', with {EACH} for every column"
                raise ValueError(f"{shorten(state)} is none of {known}")
        return states

    @field_validator("metric")
    @classmethod
    def _metric(cls, value: str) -> str:
        if not all(value.split("/", 1)) or value.count("/") != 1:
            raise ValueError(f"{shorten(value)}; write <table>/<metric>, for example bbox_iobb/AP50")
        return value

    @property
    def baseline(self) -> str:
        return self.question.baseline if self.question else ""

    @property
    def model(self) -> str:
        return self.question.model if self.question else ""

    def variant(self, name: str) -> Variant:
        """Return the variant of a name."""
        return next(variant for variant in self.variants if variant.name == name)


def find_plan(name: str | Path) -> Path:
    """Find a plan by its path, or by its name among the package's.

    Raises:
        ConfigError: there is no such plan.
    """
    for path in (Path(name), PLANS / f"{name}.yaml"):
        if os.path.isfile(path):
            return path
    known = ", ".join(sorted(path.stem for path in PLANS.glob("*.yaml")))
    raise ConfigError(
        f"no plan at '{shorten_path(name)}'; give the path of a YAML file, or one of the package's: {known}"
    )


def read_plan(name: str | Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """Read a plan and check it as far as that needs no data.

    Args:
        name: path, or name of one of the package's.
        changes: keys of the file and the values to take instead.

    Raises:
        ConfigError: the file is absent, no YAML, or has a key or value that does not fit.
    """
    path = find_plan(name)
    data = read_yaml(path, ConfigError)
    if isinstance(data, Mapping):
        data = {**data, **(changes or {})}
    plan = validated(Plan, data, str(path), ConfigError)
    try:
        return _completed(plan)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _completed(plan: Plan) -> Plan:
    """Fill in what follows from other keys, and check what refers to other keys."""
    if not plan.variants:
        raise ConfigError("variants: there are none; write [{name: ..., config: ..., overrides: ...}]")
    variants = [variant.model_copy(update={"config": variant.config or plan.config}) for variant in plan.variants]
    if without := [variant.name for variant in variants if not variant.config]:
        raise ConfigError(
            f"variant '{without[0]}' has no config, and neither has the plan; write config: mimic_eye/mdf_net.yaml"
        )
    names = [variant.name for variant in variants]
    if doubled := find_doubled(names):
        raise ConfigError(f"two variants are named '{doubled[0]}'; every variant needs a name of its own")
    sets = [variant.name for variant in variants if variant.columns == COLUMN_SETS]
    if doubled := find_doubled(variant.title for variant in variants if variant.name not in sets):
        raise ConfigError(f"two variants have the title '{doubled[0]}'; the report could not tell them apart")
    figures = []
    for figure in plan.figures:
        shown = figure.variants or ([] if figure.show == "correlation" else names)
        if figure.show in ("counts", "threshold_sweep") and len(shown) > MOST_IN_A_CHART:
            raise ConfigError(
                f"figure '{figure.name}': {figure.show} shows at most {MOST_IN_A_CHART} variants, not {len(shown)}"
            )
        reference = figure.reference or (shown[0] if shown and figure.show == "comparison" else "")
        figures.append(figure.model_copy(update={"variants": shown, "reference": reference}))
    single = [(f"figure '{figure.name}', reference", figure.reference) for figure in figures if figure.reference]
    single += [("question, baseline", plan.baseline), ("question, model", plan.model)] if plan.question else []
    shown = [(f"figure '{figure.name}'", name) for figure in figures for name in figure.variants]
    for where, name in (*shown, *single):
        if name not in names:
            raise ConfigError(f"{where}: there is no variant {shorten(name)}; there are {', '.join(names)}")
    for where, name in single:
        if name in sets:
            raise ConfigError(f"{where}: '{name}' stands for several variants, one a set of columns; name a single one")
    return plan.model_copy(update={"variants": variants, "figures": figures})


def column_sets(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Choose sets of clinical columns to compare with all of them: the paper's where the data have its columns.

    Args:
        names: of the data's columns.

    Returns:
        set's name → columns; with other columns than the paper's each one alone.
    """
    if set(_PAPER_LETTERS.values()) <= set(names):
        return {letters: tuple(_PAPER_LETTERS[letter] for letter in letters) for letters in _PAPER_SETS}
    return {name: (name,) for name in names}


_PAPER_LETTERS = {"A": "age", "T": "temperature", "H": "heartrate", "R": "resprate", "O": "o2sat", "G": "gender"}
_PAPER_SETS = ("ATHRO", "G", "GA", "GT", "GH", "GR", "GAT", "GAH", "GAR")


def with_columns(plan: Plan, names: Sequence[str]) -> Plan:
    """Put in what the columns of the data decide: a variant for each set of "sets", a state for each column of "each".

    Raises:
        ConfigError: two variants would have one name, or a state is of a column that the data do not have.
    """
    made: dict[str, list[Variant]] = {variant.name: [variant] for variant in plan.variants}
    for variant in plan.variants:
        if variant.columns == COLUMN_SETS:
            made[variant.name] = [
                variant.model_copy(
                    update={
                        "name": f"{variant.name}_{''.join(c if c in NAME_CHARACTERS else '-' for c in key)}",
                        "title": ", ".join(columns),
                        "columns": columns,
                        "published": variant.published.get(key, {}),
                    }
                )
                for key, columns in column_sets(names).items()
            ]
    figures = [
        figure.model_copy(update={"variants": [new.name for old in figure.variants for new in made[old]]})
        for figure in plan.figures
    ]
    variants = [new for several in made.values() for new in several]
    if doubled := find_doubled(variant.name for variant in variants):
        raise ConfigError(f"two variants are named '{doubled[0]}', one for a set of columns; rename the other")
    states: list[str] = []
    for state in plan.records:
        column, change = split_state(state)
        if column and column not in (EACH, *names):
            raise ConfigError(
                f"records: {shorten(state)}: the data have no clinical column '{column}'; they have {', '.join(names)}"
            )
        states += [f"{name} {change}" for name in names] if column == EACH and EACH not in names else [state]
    return plan.model_copy(update={"variants": variants, "figures": figures, "records": list(dict.fromkeys(states))})
