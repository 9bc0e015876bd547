"""Get configs and models of the zoo by name, with the function names of ``detectron2.model_zoo``."""

# ruff: noqa: E402  (the check comes before the imports that need detectron2)
from mdf_detectron import require_detectron2

require_detectron2()

import torch
from detectron2.config import CfgNode
from torch import nn

from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.checkpoint.published import open_published
from mdf_detectron.config_file import load_config
from mdf_detectron.modeling.meta_arch import build_model

__all__ = ["get", "get_config"]


def get_config(config_path: str) -> CfgNode:
    """Return the config of a zoo model by name, such as "mimic_eye/mdf_net.yaml"."""
    return load_config(config_path)


def get(config_path: str, trained: bool = False) -> nn.Module:
    """Build a zoo model in evaluation mode, on its config's device or, if there is no GPU, on the CPU.

    Args:
        trained: load its verified weights; otherwise weights are random and clinical statistics are not set.
    """
    cfg = get_config(config_path)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return load_model(cfg, open_published(config_path)) if trained else build_model(cfg).eval()
