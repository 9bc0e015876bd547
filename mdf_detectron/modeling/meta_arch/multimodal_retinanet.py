"""The one-stage detector (RetinaNet) over images and clinical rows."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.meta_arch.multimodal_mixin import MultimodalMixin


@META_ARCH_REGISTRY.register()
class MultimodalRetinaNet(MultimodalMixin, RetinaNet):
    """``RetinaNet`` over images and clinical rows, with 3-D fusion on every level; inputs as ``MultimodalRCNN``'s."""

    @classmethod
    def from_config(cls, cfg: CfgNode):
        if cfg.MODEL.MASK_ON:
            raise ConfigError("MultimodalRetinaNet gives boxes only: set MODEL.MASK_ON False")
        return super().from_config(cfg)

    @staticmethod
    def loss_names(cfg: CfgNode) -> list[str]:
        """Focal loss of the classes, and of the boxes."""
        return ["loss_cls", "loss_box_reg"]
