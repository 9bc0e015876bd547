"""Checkpoints: files of weights, config and contents, read and written."""

from mdf_detectron.dependencies import require_detectron2

require_detectron2()
