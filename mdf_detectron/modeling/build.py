"""Config → model; what a config asks for and cannot be built is one line."""

from __future__ import annotations

import traceback
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_by_registry
from torch import nn

from mdf_detectron.errors import ConfigError, UserError, short_text


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model of a config on its device.

    Raises:
        ConfigError: a value that a part of the model refuses; the message names the line, the cause is chained to it.
    """
    try:
        return build_by_registry(cfg)
    except UserError:
        raise
    except Exception as cause:  # asserts, KeyErrors, RuntimeErrors: each part of a model checks in its own way
        last = traceback.extract_tb(cause.__traceback__)[-1]
        text = f"{type(cause).__name__}: {short_text(cause)} ({Path(last.filename).name}, line {last.lineno})"
        raise ConfigError(f"the model of this config cannot be built: {text}") from cause
