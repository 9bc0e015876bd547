"""Train models; everything here needs detectron2."""

from mdf_detectron import require_detectron2

require_detectron2()
