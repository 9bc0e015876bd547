"""Backbones; importing this package registers them."""

from mdf_detectron.modeling.backbone.dual_backbone import CLINICAL_FEATURE, DualBackbone, build_dual_backbone
from mdf_detectron.modeling.backbone.timm_backbone import (
    TimmBackbone,
    build_timm_backbone,
    build_timm_fpn_backbone,
)
from mdf_detectron.modeling.backbone.timm_trunk import TimmTrunk

__all__ = [
    "CLINICAL_FEATURE",
    "DualBackbone",
    "TimmBackbone",
    "TimmTrunk",
    "build_dual_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
]
