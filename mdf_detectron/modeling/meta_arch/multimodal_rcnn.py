"""Two-stage detectors (Faster, Mask and Cascade R-CNN) over images and clinical rows."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from torch import nn

from mdf_detectron.modeling.loss_weighting import build_loss_weighting
from mdf_detectron.modeling.meta_arch.multimodal_mixin import MultimodalMixin


@META_ARCH_REGISTRY.register()
class MultimodalRCNN(MultimodalMixin, GeneralizedRCNN):
    """``GeneralizedRCNN`` over images and clinical rows.

    Inputs are Detectron2's dicts with, in addition, ``clinical_numeric`` ((A,) float, NaN where missing) and
    ``clinical_categorical`` ((B,) long, -1 where missing).
    """

    @configurable
    def __init__(self, *, loss_weighting: nn.Module | None = None, **parts):
        super().__init__(**parts)
        self.loss_weighting = loss_weighting

    @classmethod
    def from_config(cls, cfg):
        names = ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"]
        if "Cascade" in cfg.MODEL.ROI_HEADS.NAME:
            stages = range(len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS))
            names = names[:2] + [f"{n}_stage{k}" for k in stages for n in ("loss_cls", "loss_box_reg")]
        if cfg.MODEL.MASK_ON:
            names.append("loss_mask")
        return {**super().from_config(cfg), "loss_weighting": build_loss_weighting(cfg, names)}
