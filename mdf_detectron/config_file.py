"""Read config files: plain values, ``_BASE_`` honored as in Detectron2, files of this machine alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdf_detectron.errors import ConfigError, shorten
from mdf_detectron.fileio import read_yaml

BASE_KEY = "_BASE_"

MOST_FILES = 30
"""Files that one config is read from, its bases and theirs."""


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Read a config file over its bases (``_BASE_``: a file or several, relative to it; later ones win).

    Raises:
        ConfigError: a file is absent, no safe YAML or no mapping of names; it includes itself; a base is on the web.
    """
    return _read(Path(path), (), [0])


def _read(path: Path, below: tuple[str, ...], count: list[int]) -> dict[str, Any]:
    """Read ``path``, which the files ``below`` it name as their base, the last one directly."""
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
    """Merge a mapping into another, in which its values replace those of the same key."""
    for key, value in above.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ConfigError(f"{where}: {key} holds keys, but is a value in its {BASE_KEY}")
            _merge(value, into[key], where)
        else:
            into[key] = value
