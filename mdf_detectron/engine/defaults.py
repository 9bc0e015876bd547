"""Arguments → config: safe YAML only, and every mistake one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch

from mdf_detectron.config import add_mdf_config, check_config
from mdf_detectron.errors import ConfigError, UserError
from mdf_detectron.modeling.deconv_fast.cpu_memory import keep_freed_memory

__all__ = ["default_argument_parser", "get_mdf_cfg", "launch", "load_config", "run_tool", "setup", "setup_cfg"]


def get_mdf_cfg() -> CfgNode:
    """Detectron2's defaults and this project's keys."""
    cfg = get_cfg()
    add_mdf_config(cfg)
    return cfg


def load_config(config_file: str | Path, opts: list[str] | None = None) -> CfgNode:
    """Read a config file (safe YAML, ``_BASE_`` honored) and overrides, and check them.

    Raises:
        ConfigError: the file is absent, not safe YAML, or has a key or value that does not fit.
    """
    cfg = get_mdf_cfg()
    if not Path(config_file).is_file():
        raise ConfigError(f"no config file at '{config_file}'; name one below configs/ with --config-file")
    try:
        cfg.merge_from_file(str(config_file), allow_unsafe=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"{config_file}: not safe YAML: {str(error).splitlines()[0]}") from None
    except (KeyError, ValueError, AssertionError, FileNotFoundError) as error:
        raise ConfigError(f"{config_file}: {_text(error)}") from None
    try:
        cfg.merge_from_list(list(opts or []))
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"config override: {_text(error)}; overrides are pairs of KEY VALUE") from None
    check_config(cfg)
    return cfg


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"no file at {error.filename}"
    return str(error.args[0]) if error.args else type(error).__name__


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a command line; runs on the CPU, and says so, where there is no GPU."""
    cfg = load_config(args.config_file, args.opts)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """:func:`setup_cfg`, then Detectron2's logging, output folder and seeds; on a CPU freed memory is kept."""
    cfg = setup_cfg(args)
    default_setup(cfg, args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    return cfg


def run_tool(main: Callable[[], None]) -> None:
    """Run a command line's ``main``; a :class:`UserError` ends it with one line and exit status 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
