"""RoI heads with 1-D fusion: the encoded record joins every flattened RoI (paper, equation 4: Flatten(Z̃^RoI) ∪ Z^C).

Shape letters: N images, R regions of all images, D channels, P pooler resolution, Z width of the encoded record.
"""

from __future__ import annotations

import torch
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Boxes
from torch import Tensor, nn

from mdf_detectron.config import fuses_1d
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.dual_backbone import CLINICAL_FEATURE


class ConcatenatedLinear(nn.Module):
    """W·(Flatten(Z̃^RoI) ∪ Z^C) + b = W_region·Flatten(Z̃^RoI) + W_clinical·Z^C + b (paper, equation 4).

    The two parts differ in their number of inputs by a factor of about fifty.  As parameters of their own they can
    have what each needs: its initialization and its learning rate (``SOLVER.CLINICAL_LR_FACTOR``).  In one weight
    the row starts with a vanishing share of the output, and training may never find it.

    Args:
        region: the layer for the region's inputs, with its bias.
        clinical_features: Z, inputs that the row adds behind the region's.
    """

    def __init__(self, region: nn.Linear, clinical_features: int):
        super().__init__()
        self.region = region
        self.clinical = nn.Linear(clinical_features, region.out_features, bias=False)
        # A tenth of the usual scale: an untrained row is a random offset that the detector first has to unlearn.
        nn.init.normal_(self.clinical.weight, std=0.1 / clinical_features**0.5)

    @property
    def weight(self) -> Tensor:
        """(out, F + Z): the weight of the one linear map that this is."""
        return torch.cat([self.region.weight, self.clinical.weight], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(R, F + Z) → (R, out)."""
        region, clinical = x.split([self.region.in_features, self.clinical.in_features], dim=1)
        return self.region(region) + self.clinical(clinical)


class ClinicalROIPooler(nn.Module):
    """Pools regions, flattens them and appends their image's encoded row.

    Standing where Detectron2's RoI heads expect their pooler, it needs no change of their forward.

    Args:
        pooler: a ``ROIPooler``.
    """

    def __init__(self, pooler: nn.Module):
        super().__init__()
        self.pooler = pooler

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool and concatenate.

        Args:
            x: the feature maps (N, D, h, w), and last the encoded rows (N, Z).
            box_lists: N ``Boxes``, in image order.

        Returns:
            (R, D·P·P + Z).
        """
        *features, encoded = x
        regions = self.pooler(features, box_lists).flatten(start_dim=1)
        counts = torch.tensor([len(boxes) for boxes in box_lists], device=encoded.device)
        return torch.cat([regions, encoded.repeat_interleave(counts, dim=0).to(regions.dtype)], dim=1)


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
