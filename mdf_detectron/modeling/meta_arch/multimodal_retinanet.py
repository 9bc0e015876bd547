"""The one-stage detector (RetinaNet) over images and clinical rows."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet
from torch import nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.loss_weighting import build_loss_weighting
from mdf_detectron.modeling.meta_arch.multimodal_mixin import MultimodalMixin


@META_ARCH_REGISTRY.register()
class MultimodalRetinaNet(MultimodalMixin, RetinaNet):
    """``RetinaNet`` over images and clinical rows, with 3-D fusion on every level; inputs as ``MultimodalRCNN``'s."""

    @configurable
    def __init__(self, *, loss_weighting: nn.Module | None = None, **parts):
        super().__init__(**parts)
        self.loss_weighting = loss_weighting

    @classmethod
    def from_config(cls, cfg):
        if cfg.MODEL.MASK_ON:
            raise ConfigError("MultimodalRetinaNet gives boxes only: set MODEL.MASK_ON False")
        weighting = build_loss_weighting(cfg, ["loss_cls", "loss_box_reg"])
        return {**super().from_config(cfg), "loss_weighting": weighting}
