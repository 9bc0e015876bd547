"""A plan: which models are trained, with which seeds, on which folds of which data set, and what the report shows.

A plan is a YAML file, the package's own (``paper``, ``does_it_help``, ``fusions``) or anyone's::

    name: does_it_help
    dataset: mimic_eye                      # a prepared folder, by name or path
    config: mimic_eye/mdf_net.yaml          # of every variant that names none
    seeds: [1, 2, 3]
    folds: available                        # or all, or [0, 1]; left out: the folder's own splits
    overrides: {SOLVER.MAX_ITER: 9000}      # of every training
    variants:
      - {name: image_only, title: Image-only, overrides: {MODEL.CLINICAL.FUSION_3D: false}}
      - {name: fused, columns: [age, gender]}
    records: [half, removed, shuffled]      # changes of the test records that models with a record are scored with
    figures:
      - {name: places, show: comparison, variants: [image_only, fused]}
    question: {baseline: image_only, model: fused}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mdf_detectron.data.record_changes import hide_values, permute_records, remove_records
from mdf_detectron.errors import ConfigError, shorten
from mdf_detectron.fileio import read_yaml, shorten_path

PLANS = Path(__file__).parent / "plans"
"""Plans that ship with the package."""

FULL = "full"

RECORD_STATES = {
    FULL: list,
    "half": lambda records: hide_values(records, 0.5),
    "removed": remove_records,
    "shuffled": permute_records,
}
"""Changes of the test records: none, half of the values hidden, all hidden, exchanged between patients."""

SHOWS = ("counts", "comparison", "records", "correlation", "generalization", "threshold_sweep")
"""What a figure of the report can show."""

MOST_IN_A_CHART = 4
"""Variants that a chart of curves or counts tells apart by color."""

COLUMN_SETS = "sets"

FOLD_WORDS = ("all", "available")
"""All folds of the folder, which must have some; or all where it has some, else its own splits."""


@dataclass(frozen=True)
class Variant:
    """A model: a config and what is changed in it.

    Attributes:
        name: of its folder, and in figures.
        title: in the report.
        config: name or path of the config file.
        overrides: config keys and values.
        columns: clinical columns that it reads; None: those of the config, where the data have them, else all;
            "sets" stands for several variants, one for each set of :func:`column_sets`.
        published: {"AP50", "AR50", "AP50-<class>", ..., "TP", "FP", "FN": value} as published.
    """

    name: str
    config: str
    title: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] | str | None = None
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedFigure:
    """A part of the report.

    Attributes:
        name: in the report's file names.
        show: one of :data:`SHOWS`.
        variants: names, in order; empty for what no model is needed for.
        reference: the variant that the others of a comparison are tested against; the first by default.
        title: heading.
        note: a paragraph below, on what was published for one.
    """

    name: str
    show: str
    variants: tuple[str, ...] = ()
    reference: str = ""
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """See the module; every attribute is a key of the file.

    Attributes:
        metric: "<table>/<metric>" that is tested.
        baseline, model: of the question whether the record helps; empty: it is not asked.
        subgroups: clinical columns by which the answer is divided; None: age and those of two or more categories.
        published_on: data set that the published values are of; with another they are left out.
        description: first paragraph of the report.
    """

    name: str
    dataset: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...] | str = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    figures: tuple[PlannedFigure, ...] = ()
    metric: str = "bbox_iobb/AP50"
    baseline: str = ""
    model: str = ""
    subgroups: tuple[str, ...] | None = None
    published_on: str = ""
    description: str = ""

    def variant(self, name: str) -> Variant:
        """Return the variant of a name."""
        return next(variant for variant in self.variants if variant.name == name)


PLAN_KEYS = ("name", "dataset", "config", "variants", "seeds", "folds", "overrides", "records", "figures", "metric",
             "question", "subgroups", "published_on", "description")  # fmt: skip


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
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: expected keys and values ({', '.join(PLAN_KEYS)}), got {shorten(data)}")
    try:
        return _plan({**data, **(changes or {})})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def column_sets(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Choose sets of clinical columns to compare with all of them: the paper's where its columns are there.

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


def with_column_sets(plan: Plan, names: Sequence[str]) -> Plan:
    """Put a variant for each set of columns in the place of one that asks for "sets", in figures too."""
    made: dict[str, list[Variant]] = {}
    for variant in plan.variants:
        if variant.columns == COLUMN_SETS:
            made[variant.name] = [
                replace(
                    variant,
                    name=f"{variant.name}_{key}",
                    title=", ".join(columns),
                    columns=columns,
                    published=variant.published.get(key, {}),
                )
                for key, columns in column_sets(names).items()
            ]
    figures = tuple(
        replace(figure, variants=tuple(new for old in figure.variants for new in _names(made, old)))
        for figure in plan.figures
    )
    variants = tuple(new for old in plan.variants for new in made.get(old.name, [old]))
    return replace(plan, variants=variants, figures=figures)


def _names(made: Mapping[str, Sequence[Variant]], name: str) -> list[str]:
    return [variant.name for variant in made[name]] if name in made else [name]


def _plan(data: Mapping[str, Any]) -> Plan:
    _known_keys(data, PLAN_KEYS, "the plan")
    for key in ("name", "dataset", "variants"):
        if not data.get(key):
            raise ConfigError(f"the plan has no '{key}'")
    variants = tuple(
        _variant(entry, number, data.get("config")) for number, entry in enumerate(_list(data, "variants"))
    )
    names = [variant.name for variant in variants]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two variants are named '{doubled}'; every variant needs a name of its own")
    figures = tuple(_figure(entry, number, names) for number, entry in enumerate(_list(data, "figures")))
    question = data.get("question") or {}
    if not isinstance(question, Mapping):
        raise ConfigError(f"question is {shorten(question)}; write {{baseline: NAME, model: NAME}}")
    _known_keys(question, ("baseline", "model"), "question")
    for key, name in question.items():
        _known_variant(name, names, f"question, {key}")
    if len(question) == 1:
        raise ConfigError("question needs both, baseline and model")
    subgroups = data.get("subgroups")
    return Plan(
        name=_text(data, "name"),
        dataset=_text(data, "dataset"),
        variants=variants,
        seeds=_whole_numbers(data.get("seeds", [1]), "seeds"),
        folds=data["folds"]
        if data.get("folds") in FOLD_WORDS
        else _whole_numbers(data.get("folds") or [], "folds", empty=True),
        overrides=_overrides(data.get("overrides"), "overrides"),
        records=_states(_list(data, "records")),
        figures=figures,
        metric=_metric(data.get("metric", "bbox_iobb/AP50")),
        baseline=question.get("baseline", ""),
        model=question.get("model", ""),
        subgroups=None if subgroups is None else tuple(map(str, _list(data, "subgroups"))),
        published_on=str(data.get("published_on") or ""),
        description=str(data.get("description") or ""),
    )


def _variant(entry: Any, number: int, config: Any) -> Variant:
    where = f"variants[{number}]"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise ConfigError(f"{where}: {shorten(entry)} has no name; write {{name: ..., config: ..., overrides: ...}}")
    where = f"variant '{entry['name']}'"
    _known_keys(entry, [f.name for f in fields(Variant)], where)
    if not set(entry["name"]) <= _NAME_CHARACTERS:
        raise ConfigError(f"{where}: the name becomes a folder; use letters, digits, '-' and '_'")
    found = entry.get("config", config)
    if not isinstance(found, str):
        raise ConfigError(f"{where} has no config, and neither has the plan; write config: mimic_eye/mdf_net.yaml")
    columns = entry.get("columns")
    if isinstance(columns, list) and all(isinstance(name, str) for name in columns) and columns:
        columns = tuple(columns)
    elif columns is not None and columns != COLUMN_SETS:
        raise ConfigError(f"{where}: columns is {shorten(columns)}; write a list of names, or '{COLUMN_SETS}'")
    published = entry.get("published") or {}
    if not isinstance(published, Mapping):
        raise ConfigError(f"{where}: published is {shorten(published)}; write {{AP50: 31.7, AR50: 54.8}}")
    overrides = _overrides(entry.get("overrides"), where)
    return Variant(entry["name"], found, str(entry.get("title") or entry["name"]), overrides, columns, published)


_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def _figure(entry: Any, number: int, names: Sequence[str]) -> PlannedFigure:
    where = f"figures[{number}]"
    if not isinstance(entry, Mapping) or not entry.get("name"):
        raise ConfigError(f"{where}: {shorten(entry)} has no name; write {{name: ..., show: ..., variants: [...]}}")
    where = f"figure '{entry['name']}'"
    _known_keys(entry, [f.name for f in fields(PlannedFigure)], where)
    if entry.get("show") not in SHOWS:
        raise ConfigError(f"{where}: show is {shorten(entry.get('show'))}; use one of {', '.join(SHOWS)}")
    if not set(str(entry["name"])) <= _NAME_CHARACTERS:
        raise ConfigError(f"figure {shorten(entry['name'])}: the name becomes a file; use letters, digits, '-' and '_'")
    shown = tuple(_list(entry, "variants") or (() if entry["show"] == "correlation" else names))
    for name in (*shown, *([entry["reference"]] if entry.get("reference") else [])):
        _known_variant(name, names, where)
    if entry["show"] in ("counts", "threshold_sweep") and len(shown) > MOST_IN_A_CHART:
        raise ConfigError(f"{where}: {entry['show']} shows at most {MOST_IN_A_CHART} variants, not {len(shown)}")
    reference = str(entry.get("reference") or (shown[0] if shown else ""))
    text = {key: str(entry.get(key) or "") for key in ("title", "note")}
    return PlannedFigure(str(entry["name"]), entry["show"], shown, reference, text["title"] or str(entry["name"]),
                         text["note"])  # fmt: skip


def _known_variant(name: Any, names: Sequence[str], where: str) -> None:
    if name not in names:
        raise ConfigError(f"{where}: there is no variant {shorten(name)}; there are {', '.join(names)}")


def _known_keys(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise ConfigError(f"{where}: unknown key {shorten(unknown[0])}; there are {', '.join(known)}")


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key) or []
    if not isinstance(value, list):
        raise ConfigError(f"{key} is {shorten(value)}; write a list")
    return value


def _text(data: Mapping[str, Any], key: str) -> str:
    if not isinstance(data[key], str):
        raise ConfigError(f"{key} is {shorten(data[key])}; write a text")
    return data[key]


def _whole_numbers(value: Any, key: str, empty: bool = False) -> tuple[int, ...]:
    good = isinstance(value, list) and all(type(v) is int and v >= 0 for v in value) and len(set(value)) == len(value)
    if not good or not (value or empty):
        extra = f", or {' or '.join(FOLD_WORDS)}" if empty else ""
        raise ConfigError(f"{key} is {shorten(value)}; write a list of different whole numbers from 0 on{extra}")
    return tuple(value)


def _overrides(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where}: overrides is {shorten(value)}; write config keys and values, {{SEED: 1}}")
    if reserved := [key for key in value if key in RESERVED or key.startswith("DATASETS.")]:
        raise ConfigError(f"{where}: {reserved[0]} is set by the plan itself (seeds, folds, dataset); leave it out")
    return dict(value)


RESERVED = ("SEED", "OUTPUT_DIR")
"""Config keys that follow from the plan."""


def _states(names: list[Any]) -> tuple[str, ...]:
    known = [name for name in RECORD_STATES if name != FULL]
    for name in names:
        if name not in known:
            raise ConfigError(f"records: {shorten(name)} is none of {', '.join(known)}")
    return tuple(names)


def _metric(value: Any) -> str:
    parts = value.split("/") if isinstance(value, str) else []
    if len(parts) != 2 or not all(parts):
        raise ConfigError(f"metric is {shorten(value)}; write <table>/<metric>, for example bbox_iobb/AP50")
    return value
