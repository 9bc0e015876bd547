"""Export models for programs without Detectron2."""

from mdf_detectron import require_detectron2

require_detectron2()
