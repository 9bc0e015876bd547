"""Weights of Detectron2's model zoo (pickle files) as a checkpoint of this project, read without executing code."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from torch import Tensor

from mdf_detectron.errors import CheckpointError

IMAGE_BACKBONE = "backbone.image_backbone."

_ALLOWED = {
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}
"""All that a pickle of a dict of arrays needs; none of it runs anything else."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.") if hasattr(np, "_core") else module
        if (module.replace("numpy.core.", "numpy._core."), name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need")
        return super().find_class(module, name)


def read_zoo_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.pkl`` file of the zoo under Detectron2's names.

    Three kinds are read: whole detectors, torchvision's ImageNet weights ("stem.conv1.weight" …), and MSRA's in
    Caffe2's names.

    Raises:
        CheckpointError: no such file, a damaged one, or one that holds anything but arrays and plain values.
    """
    try:
        with open(path, "rb") as file:
            data = _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise CheckpointError(f"no weights at {path}") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be loaded safely: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not a dict of weights")
    of_detectron2 = "model" in data and "__author__" in data
    weights = data["model"] if of_detectron2 else data.get("blobs", data)
    state = {
        name: torch.from_numpy(np.array(value))
        for name, value in weights.items()
        if isinstance(value, np.ndarray) and not name.endswith("_momentum")
    }
    if of_detectron2 and data["__author__"] != "Caffe2":
        return state
    return convert_c2_detectron_names(state)[0]


def for_dual_backbone(state: dict[str, Tensor], input_channels: int = 3) -> tuple[dict[str, Tensor], list[str]]:
    """Renamed for the image backbone of a ``DualBackbone``; detector parts keep their names.

    Args:
        state: of :func:`read_zoo_weights`.
        input_channels: 1 sums the first convolution over its three, which is the same function of a gray image.

    Returns:
        the weights, and the names that no model of this project has a place for (an ImageNet classifier, say).
    """
    out, dropped = {}, []
    for name, value in state.items():
        if re.match(r"(stem|res\d)\.", name):
            new = f"{IMAGE_BACKBONE}bottom_up.{name}"
        elif name.startswith("backbone."):
            new = IMAGE_BACKBONE + name.removeprefix("backbone.")
        elif name.startswith(("proposal_generator.", "roi_heads.", "head.")):
            new = name
        else:
            dropped.append(name)
            continue
        if input_channels == 1 and name.endswith("stem.conv1.weight"):
            value = value.sum(dim=1, keepdim=True)
        out[new] = value
    return out, dropped
