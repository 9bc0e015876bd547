"""Predict findings from a checkpoint."""

from mdf_detectron import require_detectron2

require_detectron2()
