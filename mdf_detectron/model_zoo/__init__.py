"""The model zoo: names of configs, and trained weights that are verified (Detectron2's function names)."""

from mdf_detectron.model_zoo.model_zoo import ZooEntry, get, get_checkpoint, get_config, get_config_file, read_zoo

__all__ = ["ZooEntry", "get", "get_checkpoint", "get_config", "get_config_file", "read_zoo"]
