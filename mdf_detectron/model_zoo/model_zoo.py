"""Names of the model zoo → config and model, with the names and meanings of ``detectron2.model_zoo``."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from torch import nn

from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.config_file import load_config
from mdf_detectron.fileio import find_config_file
from mdf_detectron.model_zoo.zoo_weights import get_checkpoint
from mdf_detectron.modeling.meta_arch import build_model


def get_config_file(config_path: str) -> str:
    """Return the path of a config that ships with the package.

    Args:
        config_path: its name, for example "mimic_eye/mdf_net.yaml".

    Raises:
        ConfigError: no such config.
    """
    return str(find_config_file(config_path))


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """Return the config of a zoo model.

    Args:
        trained: set ``MODEL.WEIGHTS`` to the model's verified weights.
    """
    cfg = load_config(config_path)
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a zoo model in evaluation mode.

    Args:
        trained: load its verified weights; else it is randomly initialized, and its clinical statistics are not set.
        device: as of torch; by default the config's, or the CPU where there is no GPU.
    """
    cfg = get_config(config_path, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    elif cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return load_model(cfg, cfg.MODEL.WEIGHTS) if trained else build_model(cfg).eval()
