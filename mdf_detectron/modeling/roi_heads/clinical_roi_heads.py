"""RoI heads whose box branch sees the clinical row; everything else is Detectron2's."""

from __future__ import annotations

from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    StandardROIHeads,
)

from mdf_detectron.config import fuses_1d
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.backbone.dual_backbone import CLINICAL_FEATURE
from mdf_detectron.modeling.roi_heads.clinical_pooler import ClinicalROIPooler
from mdf_detectron.modeling.roi_heads.concatenated_linear import ConcatenatedLinear


class ClinicalBoxHeadMixin:
    """Puts a :class:`ClinicalROIPooler` before the box head when the backbone gives "clinical" features."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        if not fuses_1d(cfg):
            return parts
        head = cfg.MODEL.ROI_BOX_HEAD
        if head.NUM_CONV or not head.NUM_FC:
            raise ConfigError(
                "1-D fusion concatenates the row to flattened regions: it needs MODEL.ROI_BOX_HEAD.NUM_CONV 0 "
                f"and NUM_FC of at least 1, got {head.NUM_CONV} and {head.NUM_FC}"
            )
        encoded_dim = input_shape[CLINICAL_FEATURE].channels

        heads = parts["box_heads"] if "box_heads" in parts else [parts["box_head"]]
        for box_head in heads:
            box_head.fc1 = box_head.fcs[0] = ConcatenatedLinear(box_head.fc1, encoded_dim)
        return {
            **parts,
            "box_in_features": [*parts["box_in_features"], CLINICAL_FEATURE],
            "box_pooler": ClinicalROIPooler(parts["box_pooler"]),
        }


@ROI_HEADS_REGISTRY.register()
class ClinicalROIHeads(ClinicalBoxHeadMixin, StandardROIHeads):
    """``StandardROIHeads`` with 1-D clinical fusion (switched by ``MODEL.CLINICAL.FUSION_1D``)."""


@ROI_HEADS_REGISTRY.register()
class ClinicalCascadeROIHeads(ClinicalBoxHeadMixin, CascadeROIHeads):
    """``CascadeROIHeads`` with 1-D clinical fusion before the box head of every stage."""
