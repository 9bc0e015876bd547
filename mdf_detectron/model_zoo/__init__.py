"""The model zoo: names of configs, and trained weights that are verified (Detectron2's function names)."""

# ruff: noqa: E402  (the check comes before the imports that need detectron2)
from mdf_detectron.dependencies import require_detectron2

require_detectron2()

from mdf_detectron.model_zoo.model_zoo import ZooEntry, get, get_checkpoint, get_config, get_config_file, read_zoo

__all__ = ["ZooEntry", "get", "get_checkpoint", "get_config", "get_config_file", "read_zoo"]
