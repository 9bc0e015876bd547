"""Check for torch and Detectron2, which pip does not install, and register this package's components with them."""

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
"""Package → how to install it; packages of extras are checked where they are used."""


def require_detectron2() -> None:
    """Raise ``ModuleNotFoundError``, which says how to install it, if torch or detectron2 is not installed."""
    for name in ("torch", "detectron2"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"mdf_detectron needs {name}: {INSTALL_HINTS[name]}", name=name, path=__file__)


def ignore_deprecations() -> None:
    """Suppress torch's deprecation warnings about functions that fvcore and detectron2 script at import."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")


def register() -> None:
    """Register every component; leave the warning filters as they were."""
    with warnings.catch_warnings():
        ignore_deprecations()
        importlib.import_module("mdf_detectron.modeling")
