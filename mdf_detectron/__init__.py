"""MDF-Net for Detectron2: detectors that read a chest radiograph together with the patient's clinical record.

Importing this package registers its components with Detectron2 and, before torch is loaded, sets ``OMP_WAIT_POLICY``
and ``GOMP_SPINCOUNT`` unless the user has; it does nothing else. Without detectron2 the modules that need only NumPy
(matching, metrics, statistics, splits) can still be imported.
"""

import importlib
import os
import sys
import warnings
from importlib.util import find_spec
from typing import Any

from mdf_detectron.threads import wait_briefly

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "add_mdf_config"]

_HOME = {"Predictor": "mdf_detectron.inference.predictor", "add_mdf_config": "mdf_detectron.config"}

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


def _runs_command() -> bool:
    """Tell whether this process is ``mdf``, a worker that it spawned, or ``python -m mdf_detectron``."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # Python replaces it by the module's file after importing this package
        return "mdf_detectron" in (word.removeprefix("-m") for word in sys.orig_argv)
    return os.path.basename(program) in ("mdf", "mdf.exe")


wait_briefly()
# Registration imports torch and Detectron2, which takes seconds. Other programs may build a model right after this
# import, so they register here. The command answers --help or a typo without them; it registers when it first reads a
# config or imports `mdf_detectron.modeling`.
if find_spec("detectron2") is not None:
    if _runs_command():
        ignore_deprecations()
    else:
        register()


def __getattr__(name: str) -> Any:
    """Import a name that needs detectron2 on first access."""
    if name not in _HOME:
        raise AttributeError(f"module 'mdf_detectron' has no attribute '{name}'")
    require_detectron2()
    return getattr(importlib.import_module(_HOME[name]), name)
