"""RoI heads whose box branch sees the clinical row; everything else is Detectron2's."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    StandardROIHeads,
    build_box_head,
)
from torch import nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.backbone.dual_backbone import CLINICAL_FEATURE
from mdf_detectron.modeling.roi_heads.clinical_pooler import ClinicalROIPooler


class ClinicalBoxHeadMixin:
    """Puts a :class:`ClinicalROIPooler` before the box head when the backbone gives "clinical" features."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        if not cfg.MODEL.CLINICAL.FUSION_1D:
            return parts
        head = cfg.MODEL.ROI_BOX_HEAD
        if head.NUM_CONV or not head.NUM_FC:
            raise ConfigError(
                "1-D fusion concatenates the row to flattened regions: it needs MODEL.ROI_BOX_HEAD.NUM_CONV 0 "
                f"and NUM_FC of at least 1, got {head.NUM_CONV} and {head.NUM_FC}"
            )
        encoded_dim = input_shape[CLINICAL_FEATURE].channels
        region_dim = input_shape[parts["box_in_features"][0]].channels * head.POOLER_RESOLUTION**2
        shape = ShapeSpec(channels=region_dim + encoded_dim, height=1, width=1)

        def rebuild(_: nn.Module) -> nn.Module:
            return _balance_clinical_inputs(build_box_head(cfg, shape), encoded_dim)

        if isinstance(cls, type) and issubclass(cls, CascadeROIHeads):
            parts["box_heads"] = [rebuild(h) for h in parts["box_heads"]]
        else:
            parts["box_head"] = rebuild(parts["box_head"])
        return {
            **parts,
            "box_in_features": [*parts["box_in_features"], CLINICAL_FEATURE],
            "box_pooler": ClinicalROIPooler(parts["box_pooler"]),
        }


def _balance_clinical_inputs(box_head: nn.Module, encoded_dim: int) -> nn.Module:
    """Initialize the weights of the row's inputs by their own fan-in.

    Among thousands of region inputs the row would start with a vanishing share of the first layer's output, and
    training may never find it.
    """
    columns = box_head.fc1.weight.data[:, -encoded_dim:]
    nn.init.kaiming_uniform_(columns, a=1)
    return box_head


@ROI_HEADS_REGISTRY.register()
class ClinicalROIHeads(ClinicalBoxHeadMixin, StandardROIHeads):
    """``StandardROIHeads`` with 1-D clinical fusion (switched by ``MODEL.CLINICAL.FUSION_1D``)."""


@ROI_HEADS_REGISTRY.register()
class ClinicalCascadeROIHeads(ClinicalBoxHeadMixin, CascadeROIHeads):
    """``CascadeROIHeads`` with 1-D clinical fusion before the box head of every stage."""
