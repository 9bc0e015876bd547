"""Registration of this package's components with Detectron2, which importing :mod:`mdf_detectron.modeling` does."""

from __future__ import annotations

import importlib
import warnings


def ignore_deprecations() -> None:
    """Suppress what newer releases of torch say of functions that fvcore and detectron2 script at import."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")


def register() -> None:
    """Register every component, without changing the filters of warnings."""
    with warnings.catch_warnings():
        ignore_deprecations()
        importlib.import_module("mdf_detectron.modeling")
