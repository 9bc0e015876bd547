"""Arguments → config: safe YAML only, and every mistake one line."""

from __future__ import annotations

import argparse
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup

from mdf_detectron.config import add_mdf_config
from mdf_detectron.config_checks import check_config
from mdf_detectron.config_file import read_config_file
from mdf_detectron.data.catalog import dataset_schema, register_all
from mdf_detectron.errors import ConfigError, shorten
from mdf_detectron.fileio import shorten_path
from mdf_detectron.modeling.deconv_fast.cpu_memory import keep_freed_memory
from mdf_detectron.older_configs import accept_older_keys, translate_older_keys

__all__ = ["default_argument_parser", "find_config_file", "get_mdf_cfg", "load_config", "setup", "setup_cfg"]


def get_mdf_cfg() -> CfgNode:
    """Detectron2's defaults and this project's keys."""
    cfg = get_cfg()
    add_mdf_config(cfg)
    return cfg


MERGE_ERRORS = (KeyError, ValueError, AssertionError, TypeError, AttributeError, RecursionError, MemoryError)
"""What yacs raises for keys and values that do not fit, literals included."""

LONGEST_VALUE = 100_000
"""Characters of an override; Python's parser takes seconds for more."""

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""Configs that ship with the package."""


def find_config_file(name: str | Path) -> Path:
    """Find a config file by its path, or by its name below the package's configs ("mimic_eye/mdf_net.yaml").

    Raises:
        ConfigError: there is no such file.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / str(name).removeprefix("configs/")):
        if os.path.isfile(path):
            return path
    near = get_close_matches(Path(name).stem, {path.stem for path in CONFIGS.glob("*/*.yaml")}, n=3)
    raise ConfigError(
        f"no config file at '{shorten_path(name)}'; give a path, or a name of the model zoo such as "
        "'mimic_eye/mdf_net.yaml'" + (f" (names near it: {', '.join(near)})" if near else "")
    )


def load_config(config_file: str | Path, opts: list[str] | None = None) -> CfgNode:
    """Read a config file (safe YAML, ``_BASE_`` honored) and overrides, and check them.

    Raises:
        ConfigError: the file is absent, not safe YAML, or has a key or value that does not fit.
    """
    cfg = get_mdf_cfg()
    accept_older_keys(cfg)
    config_file = find_config_file(config_file)
    merge(cfg, read_config_file(config_file), config_file)
    for key, value in zip(opts := list(opts or []), opts[1:], strict=False):
        if isinstance(value, str) and len(value) > LONGEST_VALUE:
            raise ConfigError(f"config override: the value of {shorten(key)} has {len(value):,} characters")
    try:
        cfg.merge_from_list(opts)
    except MERGE_ERRORS as error:
        raise ConfigError(f"config override: {_text(error)}; overrides are pairs of KEY VALUE") from None
    translate_older_keys(cfg)
    check_config(cfg)
    fill_vocabularies(cfg)
    return cfg


def merge(cfg: CfgNode, values: dict[str, Any], where: str | Path) -> None:
    """Merge the content of a config file into ``cfg``.

    Raises:
        ConfigError: a key that there is not, a value of another type, or Detectron2's first version of configs.
    """
    if values.get("VERSION", cfg.VERSION) != cfg.VERSION:
        raise ConfigError(f"{where}: VERSION is {shorten(values['VERSION'])}; this version reads {cfg.VERSION}")
    try:
        cfg.merge_from_other_cfg(CfgNode(values))
    except MERGE_ERRORS as error:
        raise ConfigError(f"{where}: {_text(error)}") from None


def fill_vocabularies(cfg: CfgNode) -> None:
    """Take the vocabularies of the categorical columns from the schema of the data set, where the config has none.

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


def _text(error: Exception) -> str:
    """Return the text of an error of yacs, whose ``str`` is the repr of its message for some."""
    text = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
    return text if len(text) <= 240 else f"{text[:140]} … {text[-95:]}"


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """Return the frozen config of a command line, and register the prepared folders; the CPU where there is no GPU.

    Raises:
        ConfigError: a mistake in the config, or a GPU that the command line asks for and that is not there.
    """
    register_all()
    args.config_file = str(find_config_file(args.config_file))  # Detectron2 logs its text
    cfg = load_config(args.config_file, args.opts)
    _check_device(cfg.MODEL.DEVICE, asked="MODEL.DEVICE" in args.opts)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


def _check_device(device: str, asked: bool) -> None:
    """Refuse a GPU that is not there; where a config only has Detectron2's default, the CPU takes its place."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or (device == "cuda" and not asked):
        return
    count = torch.cuda.device_count()
    if not number.isdigit() and number or int(number or 0) >= count:
        raise ConfigError(f"MODEL.DEVICE is {device}, but this machine has {count} GPU(s); set MODEL.DEVICE cpu")


def setup(args: argparse.Namespace) -> CfgNode:
    """:func:`setup_cfg`, then Detectron2's logging, output folder and seeds; on a CPU freed memory is kept."""
    cfg = setup_cfg(args)
    if cfg.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first kernel runs
        torch.use_deterministic_algorithms(True, warn_only=True)
    default_setup(cfg, args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    return cfg
