"""Read config files (safe YAML, ``_BASE_`` honored, local files only) into a checked config."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from mdf_detectron import register
from mdf_detectron.config import add_mdf_config, flat_config
from mdf_detectron.config_checks import check_config
from mdf_detectron.data.catalog import dataset_schema
from mdf_detectron.errors import ConfigError, cut, shorten
from mdf_detectron.fileio import find_config_file, read_yaml

BASE_KEY = "_BASE_"

MOST_FILES = 30
"""Largest number of files that one config is read from, its bases and theirs included."""

MERGE_ERRORS = (KeyError, ValueError, AssertionError, TypeError, AttributeError, RecursionError, MemoryError)
"""What yacs raises for keys and values that do not fit, unparsable literals included."""

LONGEST_VALUE = 100_000
"""Most characters of an override; Python's parser takes seconds for more."""


def get_mdf_cfg() -> CfgNode:
    """Register this project's components and return Detectron2's defaults with this project's keys."""
    register()
    cfg = get_cfg()
    add_mdf_config(cfg)
    return cfg


def load_config(config_file: str | Path, opts: list[str] | None = None) -> CfgNode:
    """Read a config file and overrides [KEY, VALUE, …]; raise :class:`ConfigError` for the first mistake."""
    cfg = get_mdf_cfg()
    config_file = find_config_file(config_file)
    merge(cfg, read_config_file(config_file), config_file)
    for key, value in zip(opts := list(opts or []), opts[1:], strict=False):
        if isinstance(value, str) and len(value) > LONGEST_VALUE:
            raise ConfigError(f"config override: the value of {shorten(key)} has {len(value):,} characters")
    try:
        cfg.merge_from_list(opts)
    except MERGE_ERRORS as error:
        raise ConfigError(f"config override: {_text(error, cfg)}; overrides are pairs of KEY VALUE") from None
    check_config(cfg)
    fill_vocabularies(cfg)
    return cfg


def merge(cfg: CfgNode, values: dict[str, Any], where: str | Path) -> None:
    """Merge the content of a config file, of Detectron2's current VERSION, into ``cfg``."""
    if values.get("VERSION", cfg.VERSION) != cfg.VERSION:
        raise ConfigError(f"{where}: VERSION is {shorten(values['VERSION'])}; this version reads {cfg.VERSION}")
    try:
        cfg.merge_from_other_cfg(CfgNode(values))
    except MERGE_ERRORS as error:
        raise ConfigError(f"{where}: {_text(error, cfg)}") from None


def fill_vocabularies(cfg: CfgNode) -> None:
    """Take the categorical columns' vocabularies from the data set's schema, where the config has none.

    Raises:
        ConfigError: the data set is neither prepared nor a known collection, or its schema lacks a column.
    """
    clinical = cfg.MODEL.CLINICAL
    if not clinical.CATEGORICAL or clinical.VOCABULARIES:
        return
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    schema = next((found for found in map(dataset_schema, names) if found is not None), None)
    if schema is None:
        raise ConfigError(
            f"the values of {list(clinical.CATEGORICAL)} are not known: none of {names} is prepared; prepare "
            "it, or name the folder that holds it by DETECTRON2_DATASETS"
        )
    columns = schema.subset([], clinical.CATEGORICAL).categorical
    clinical.VOCABULARIES = [list(column.vocabulary) for column in columns]


def _text(error: Exception, cfg: CfgNode) -> str:
    """Return an error's message (``str`` of a KeyError is the repr of it), for an unknown key with the nearest one."""
    text = cut(" ".join(str(error.args[0] if error.args else type(error).__name__).split()), 240)
    unknown = re.fullmatch(r"Non-existent (?:config )?key: (\S+)", text)
    known = list(flat_config(cfg)) if unknown else []
    same = [key for key in known if key.endswith(f".{unknown[1].rpartition('.')[2]}")]  # in another node
    near = same or get_close_matches(unknown[1], known, n=1) if unknown else []
    return f"{text}; did you mean {near[0]}?" if near else text


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Read a config file over its bases (``_BASE_``: one path or a list, relative to the file; later ones win)."""
    return _read(Path(path), (), [0])


def _read(path: Path, below: tuple[str, ...], count: list[int]) -> dict[str, Any]:
    """Read ``path``; ``below`` are the files that led to it by ``_BASE_``, the direct one last."""
    named_by = f" (the {BASE_KEY} of {below[-1]})" if below else ""
    real = os.path.realpath(path)
    count[0] += 1
    if real in map(os.path.realpath, below):
        raise ConfigError(f"{path}{named_by}: includes itself by {BASE_KEY}; remove one")
    if count[0] > MOST_FILES:
        raise ConfigError(f"{path}{named_by}: read from more than {MOST_FILES} files by {BASE_KEY}")
    if below and not os.path.isfile(path):
        raise ConfigError(f"no file at {path}{named_by}")
    data = read_yaml(path, ConfigError)
    data = {} if data is None else data
    _check_keys(data, str(path))
    bases = data.pop(BASE_KEY, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        _merge(_read(_base_path(base, path), (*below, str(path)), count), merged, str(path))
    _merge(data, merged, str(path))
    return merged


def _base_path(base: Any, path: Path) -> Path:
    legal = isinstance(base, str) and base == base.encode(errors="ignore").decode() and "\0" not in base
    if not legal or not base.strip():
        raise ConfigError(f"{path}: {BASE_KEY} is {shorten(base)}; expected the path of a config file")
    if "://" in base:
        raise ConfigError(f"{path}: {BASE_KEY} is {shorten(base)}; a base must be a file of this machine, download it")
    return path.parent / Path(base).expanduser() if base.startswith("~") else path.parent / base


def _check_keys(data: Any, where: str) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: holds {shorten(data)}; expected KEY: value, as in the configs that come along")
    for key, value in data.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: the key {shorten(key)} is no name")
        if isinstance(value, Mapping):
            _check_keys(value, where)


def _merge(above: Mapping[str, Any], into: dict[str, Any], where: str) -> None:
    """Merge ``above`` into ``into``, replacing values of the same key."""
    for key, value in above.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ConfigError(f"{where}: {key} holds keys, but is a value in its {BASE_KEY}")
            _merge(value, into[key], where)
        else:
            into[key] = value
