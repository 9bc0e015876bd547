"""Which backbone reads the image, and in the paper's model a second time the pseudo-image."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from mdf_detectron.errors import ConfigError


def build_image_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A new backbone of ``MODEL.IMAGE_BACKBONE.NAME``, any of Detectron2's registry that reads a plain image tensor.

    Raises:
        ConfigError: no such backbone, or the dual backbone itself.
    """
    name = cfg.MODEL.IMAGE_BACKBONE.NAME
    known = sorted(key for key, _ in BACKBONE_REGISTRY if key != cfg.MODEL.BACKBONE.NAME)
    if name not in known:
        raise ConfigError(f"MODEL.IMAGE_BACKBONE.NAME is '{name}'; use one of {known}")
    return BACKBONE_REGISTRY.get(name)(cfg, input_shape)
