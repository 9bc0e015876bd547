"""Turn command-line arguments into a frozen config and set up Detectron2."""

from __future__ import annotations

import argparse
import os

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm

from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_all
from mdf_detectron.errors import ConfigError
from mdf_detectron.fileio import find_config_file
from mdf_detectron.threads import keep_freed_memory, use_free_cores

__all__ = ["setup", "setup_cfg"]


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
    """Run :func:`setup_cfg`, then set up threads and Detectron2's logging, output folder and seeds.

    On a CPU freed memory is kept.
    """
    cfg = setup_cfg(args)
    if cfg.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first kernel runs
        torch.use_deterministic_algorithms(True, warn_only=True)
    use_free_cores(cfg.DATALOADER.NUM_WORKERS, comm.get_local_size())
    default_setup(cfg, args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    return cfg
