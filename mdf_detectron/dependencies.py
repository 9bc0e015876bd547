"""Torch and Detectron2, which pip does not bring along: how they are installed, and what is registered with them."""

from __future__ import annotations

import importlib
import warnings
from importlib.util import find_spec

INSTALL_HINTS = {
    "torch": "install torch and torchvision as a matching pair (see INSTALL.md)",
    "ensemble_boxes": "run `pip install 'mdf_detectron[experiments]'`",
    "submitit": "run `pip install 'mdf_detectron[experiments]'`",
    "detectron2": "run `mdf install-detectron2` (see INSTALL.md)",
}
"""Package → how it is installed; those of extras are asked for where they are used."""


def require_detectron2() -> None:
    """Check that detectron2 is installed, and torch, which it needs.

    Raises:
        ModuleNotFoundError: one is not; the message says how it is installed.
    """
    for name in ("torch", "detectron2"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"mdf_detectron needs {name}: {INSTALL_HINTS[name]}", name=name, path=__file__)


def ignore_deprecations() -> None:
    """Suppress what newer releases of torch say of functions that fvcore and detectron2 script at import."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")


def register() -> None:
    """Register every component, without changing the filters of warnings."""
    with warnings.catch_warnings():
        ignore_deprecations()
        importlib.import_module("mdf_detectron.modeling")
