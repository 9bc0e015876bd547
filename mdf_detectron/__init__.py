"""MDF-Net for Detectron2: detectors that read a chest X-ray together with the patient's clinical row.

Importing this package registers its components and datasets with Detectron2.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("detectron2") is None:
    raise ImportError("mdf_detectron needs detectron2: run `python tools/install_detectron2.py` (see INSTALL.md)")

from mdf_detectron.quiet import import_detectron2_quietly  # noqa: E402

import_detectron2_quietly()

from mdf_detectron import modeling  # noqa: E402, F401  (registration)
from mdf_detectron.config import add_mdf_config  # noqa: E402
from mdf_detectron.data import catalog  # noqa: E402

catalog.register_all()

__all__ = ["Predictor", "__version__", "add_mdf_config"]


def __getattr__(name: str):
    """Import the predictor when it is asked for."""
    if name == "Predictor":
        from mdf_detectron.engine.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'mdf_detectron' has no attribute '{name}'")
