"""Two-stage detectors (Faster, Mask and Cascade R-CNN) over images and clinical rows."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

from mdf_detectron.modeling.meta_arch.multimodal_mixin import MultimodalMixin


@META_ARCH_REGISTRY.register()
class MultimodalRCNN(MultimodalMixin, GeneralizedRCNN):
    """``GeneralizedRCNN`` over images and clinical rows.

    Inputs are Detectron2's dicts with, in addition, ``clinical_numeric`` ((A,) float, NaN where missing) and
    ``clinical_categorical`` ((B,) long, -1 where missing).
    """

    @staticmethod
    def loss_names(cfg: CfgNode) -> list[str]:
        """Of the proposals, of the boxes (of every stage of a cascade) and of the masks, if there are any."""
        names = ["loss_rpn_cls", "loss_rpn_loc"]
        stages = [""]
        if "Cascade" in cfg.MODEL.ROI_HEADS.NAME:
            stages = [f"_stage{k}" for k in range(len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS))]
        names += [f"{name}{stage}" for stage in stages for name in ("loss_cls", "loss_box_reg")]
        return [*names, "loss_mask"] if cfg.MODEL.MASK_ON else names
