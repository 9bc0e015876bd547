"""Read and write checkpoints: weights, config and contents."""

from mdf_detectron import require_detectron2

require_detectron2()
