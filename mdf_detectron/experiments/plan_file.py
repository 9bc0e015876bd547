"""Read a plan and check it, as far as that needs no data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mdf_detectron.errors import ConfigError, shorten
from mdf_detectron.experiments.plan import (
    COLUMN_SETS,
    FOLD_WORDS,
    FULL,
    MOST_IN_A_CHART,
    NAME_CHARACTERS,
    PLANS,
    RECORD_STATES,
    SHOWS,
    Plan,
    PlannedFigure,
    Variant,
    first_doubled,
)
from mdf_detectron.fileio import read_yaml, shorten_path

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


def _plan(data: Mapping[str, Any]) -> Plan:
    _known_keys(data, PLAN_KEYS, "the plan")
    for key in ("name", "dataset", "variants"):
        if not data.get(key):
            raise ConfigError(f"the plan has no '{key}'")
    variants = tuple(
        _variant(entry, number, data.get("config")) for number, entry in enumerate(_list(data, "variants"))
    )
    names = [variant.name for variant in variants]
    if doubled := first_doubled(names):
        raise ConfigError(f"two variants are named '{doubled}'; every variant needs a name of its own")
    titles = [variant.title for variant in variants if variant.columns != COLUMN_SETS]
    if doubled := first_doubled(titles):
        raise ConfigError(f"two variants have the title '{doubled}'; the report could not tell them apart")
    sets = [variant.name for variant in variants if variant.columns == COLUMN_SETS]
    figures = tuple(_figure(entry, number, names) for number, entry in enumerate(_list(data, "figures")))
    question = data.get("question") or {}
    if not isinstance(question, Mapping):
        raise ConfigError(f"question is {shorten(question)}; write {{baseline: NAME, model: NAME}}")
    _known_keys(question, ("baseline", "model"), "question")
    for key, name in question.items():
        _known_variant(name, names, f"question, {key}")
    for where, name in (*question.items(), *((f"figure '{f.name}', reference", f.reference) for f in figures)):
        if name in sets:
            raise ConfigError(f"{where}: '{name}' stands for several variants, one a set of columns; name a single one")
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
        else _whole_numbers(data["folds"] if data.get("folds") is not None else [], "folds", empty=True),
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
    if not set(entry["name"]) <= NAME_CHARACTERS:
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
    by_set = columns == COLUMN_SETS and isinstance(published, Mapping)
    if not all(map(_are_numbers, published.values() if by_set else [published])):
        raise ConfigError(f"{where}: published is {shorten(published)}; write {{AP50: 31.7, AR50: 54.8}}")
    overrides = _overrides(entry.get("overrides"), where)
    return Variant(entry["name"], found, str(entry.get("title") or entry["name"]), overrides, columns, published)


def _are_numbers(published: Any) -> bool:
    return isinstance(published, Mapping) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in published.values()
    )


def _figure(entry: Any, number: int, names: Sequence[str]) -> PlannedFigure:
    where = f"figures[{number}]"
    if not isinstance(entry, Mapping) or not entry.get("name"):
        raise ConfigError(f"{where}: {shorten(entry)} has no name; write {{name: ..., show: ..., variants: [...]}}")
    where = f"figure '{entry['name']}'"
    _known_keys(entry, [f.name for f in fields(PlannedFigure)], where)
    if entry.get("show") not in SHOWS:
        raise ConfigError(f"{where}: show is {shorten(entry.get('show'))}; use one of {', '.join(SHOWS)}")
    if not set(str(entry["name"])) <= NAME_CHARACTERS:
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
    if nested := [key for key, item in value.items() if isinstance(item, Mapping)]:
        key = f"{nested[0]}.{next(iter(value[nested[0]]), 'KEY')}"
        raise ConfigError(f"{where}: overrides has keys below {nested[0]}; write whole names: {key}: VALUE")
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
