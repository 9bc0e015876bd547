"""Read the plan of a study: which models to train, on which data and folds, with which seeds, and what to report.

A plan is a YAML file, one of the package's (``paper``, ``does_it_help``, ``fusions``) or your own::

    name: does_it_help
    dataset: mimic_eye                      # a prepared folder, by name or path
    config: mimic_eye/mdf_net.yaml          # default of the variants
    seeds: [1, 2, 3]
    folds: available                        # or all, or [0, 1]; default: the folder's own splits
    overrides: {SOLVER.MAX_ITER: 9000}      # apply to every training
    variants:
      - {name: image_only, title: Image-only, overrides: {MODEL.CLINICAL.FUSION_3D: false}}
      - {name: fused, columns: [age, gender]}
    records: [share 75, share 25, half, removed, shuffled, age shuffled, each removed]   # states of the test records
    figures:
      - {name: places, show: comparison, variants: [image_only, fused]}
    question: {baseline: image_only, model: fused}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from mdf_detectron.data.record_changes import EXCHANGED, hide_values, permute_records, remove_records
from mdf_detectron.errors import ConfigError, find_doubled, shorten
from mdf_detectron.fileio import read_yaml, shorten_path
from mdf_detectron.validation import Strict, validated

PLANS = Path(__file__).parent / "plans"
"""Folder of the plans that ship with the package."""

FULL = "full"

CHANGES = {"half": "with half of its values hidden", "removed": "without any record",
           "shuffled": EXCHANGED}  # fmt: skip
"""States of the test records besides :data:`FULL`, and their descriptions. "<column> removed" and "<column> shuffled"
change a single column; "each" instead of a column name means every column in turn. "share N" keeps N % of the values of
each record (1 to 99), at random; those of a smaller share are among those of a larger."""

EACH = "each"

MOST_IN_A_CHART = 4
"""Most variants that a chart of curves or counts distinguishes by color."""

COLUMN_SETS = "sets"

NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
"""Characters allowed in names that become folders and files."""

FOLD_WORDS = ("all", "available")
"""All folds (an error without any), or all folds if there are any and the folder's own splits otherwise."""

RESERVED = ("SEED", "OUTPUT_DIR")
"""Config keys that the plan sets itself."""


def share_kept(state: str) -> int | None:
    """Return the percent of its values that a record keeps in a state; None if the state does not say."""
    found = re.fullmatch("share ([1-9][0-9]?)", state)
    return int(found[1]) if found else {FULL: 100, "half": 50, "removed": 0}.get(state)


def is_share(state: str) -> bool:
    """Tell whether a state is one of "share N"."""
    return state not in (FULL, *CHANGES) and share_kept(state) is not None


def split_state(state: str) -> tuple[str, str]:
    """Split a state of the records into column (empty for the whole record) and change."""
    if is_share(state):
        return "", state
    column, _, change = state.rpartition(" ")
    return column.strip(), change


def change_records(state: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Change the records to a state."""
    column, change = split_state(state)
    columns = [column] if column else None
    if change == "removed":
        return remove_records(records, columns)
    if change == "shuffled":
        return permute_records(records, columns)
    kept = share_kept(state)
    return list(records) if kept in (None, 100) else hide_values(records, 1 - kept / 100)


def state_words(state: str) -> str:
    """Describe a state of the records, for example "with another patient's age"."""
    column, change = split_state(state)
    if is_share(state):
        return f"with {share_kept(state)} % of its values"
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
    """Use the name as the title if there is none."""
    return {**data, "title": data.get("title") or data.get("name")} if isinstance(data, Mapping) else data


class Variant(Strict):
    """A model of a study: a config with overrides.

    Attributes:
        name: folder name, and the reference in figures.
        title: name in the report; the name by default.
        config: name or path of the config file; the plan's by default.
        columns: clinical columns to read. None: those of the config if the data have them, otherwise all. "sets": one
            variant for each set of :func:`column_sets`.
        published: published values by "AP50", "AR50", "AP50-<class>", ..., "TP", "FP", "FN"; with "sets", by set first.
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
    """A section of the report.

    Attributes:
        name: used in the report's file names.
        variants: names, in order; all by default, none for a figure that needs no model.
        reference: variant that the others of a comparison are tested against; the first by default.
        title: heading; the name by default.
        note: paragraph on what was published.
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
    """The variants without and with the record that answer whether the record helps."""

    baseline: str
    model: str


class Plan(Strict):
    """A validated plan; the module's docstring has an example.

    Attributes:
        metric: "<table>/<metric>" to test.
        question: None does not ask whether the record helps.
        subgroups: clinical columns of the subgroup analysis; None for age and all categorical columns.
        published_on: arguments in the report of the data that the published values are of; with others, with synthetic
            data, and for trainings that are chosen otherwise than by the variant's config, they are omitted.
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
    published_on: dict[str, Any] = {}
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
            if not is_share(state) and (change not in CHANGES or (column and change == "half")):
                known = f"{', '.join(CHANGES)}, 'share 75', '<column> removed', '<column> shuffled', with {EACH} for"
                raise ValueError(f"{shorten(state)} is none of {known} every column")
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
        return next(variant for variant in self.variants if variant.name == name)


def find_plan(name: str | Path) -> Path:
    """Find a plan by its path, or by name among those of the package."""
    for path in (Path(name), PLANS / f"{name}.yaml"):
        if os.path.isfile(path):
            return path
    known = ", ".join(sorted(path.stem for path in PLANS.glob("*.yaml")))
    raise ConfigError(
        f"no plan at '{shorten_path(name)}'; give the path of a YAML file, or one of the package's: {known}"
    )


def read_plan(name: str | Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """Read a plan by path or name, with ``changes`` of its keys, and check what can be checked without data."""
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
    """Fill in defaults that depend on other keys, and check references between keys."""
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
    """Map names to sets of clinical columns: the paper's sets if the data have its columns, else single columns."""
    if set(_PAPER_LETTERS.values()) <= set(names):
        return {letters: tuple(_PAPER_LETTERS[letter] for letter in letters) for letters in _PAPER_SETS}
    return {name: (name,) for name in names}


_PAPER_LETTERS = {"A": "age", "T": "temperature", "H": "heartrate", "R": "resprate", "O": "o2sat", "G": "gender"}
_PAPER_SETS = ("ATHRO", "G", "GA", "GT", "GH", "GR", "GAT", "GAH", "GAR")


def with_columns(plan: Plan, names: Sequence[str]) -> Plan:
    """Expand "sets" to one variant per set of columns, and "each" to one state per column of the data."""
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
