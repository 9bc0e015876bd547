"""MDF-Net for Detectron2: detectors that read a chest radiograph together with the patient's clinical record.

Importing this package registers its components with Detectron2 and sets ``OMP_WAIT_POLICY`` and ``GOMP_SPINCOUNT``
where nobody has, which must be before torch is loaded; it does nothing else. Without detectron2 the modules that need
only NumPy (matching, metrics, statistics, splits) can still be imported.
"""

import importlib
from importlib.util import find_spec
from typing import Any

from mdf_detectron.dependencies import require_detectron2
from mdf_detectron.threads import wait_briefly

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "add_mdf_config"]

_HOME = {"Predictor": "mdf_detectron.inference.predictor", "add_mdf_config": "mdf_detectron.config"}

wait_briefly()
if find_spec("detectron2") is not None:
    from mdf_detectron import registration  # noqa: F401


def __getattr__(name: str) -> Any:
    """Import what needs detectron2 when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'mdf_detectron' has no attribute '{name}'")
    require_detectron2()
    return getattr(importlib.import_module(_HOME[name]), name)
