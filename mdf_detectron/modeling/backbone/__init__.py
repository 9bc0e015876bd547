"""Backbones; importing this package registers them."""

from mdf_detectron.modeling.backbone.dual_backbone import CLINICAL_FEATURE, DualBackbone, build_dual_backbone
from mdf_detectron.modeling.backbone.timm_backbone import TimmBackbone, build_timm_backbone

__all__ = ["CLINICAL_FEATURE", "DualBackbone", "TimmBackbone", "build_dual_backbone", "build_timm_backbone"]
