"""RoI heads with 1-D fusion: the encoded record joins every flattened RoI (paper, equation 4: Flatten(Z̃^RoI) ∪ Z^C).

Shape letters: N images, R regions of all images, D channels, P pooler resolution, F = D·P·P, Z width of the encoded
record.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, shapes_to_tensor
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    FastRCNNConvFCHead,
    StandardROIHeads,
)
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from mdf_detectron.config import fuses_1d
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.clinical_encoder import EncodedRecord, record_layout
from mdf_detectron.modeling.roi_align import use_separable_roi_align

RECORD = "encoded_record"
"""Key under which these heads, and nothing outside of this module, hand the record to their box branch."""


def with_record(features: dict[str, Tensor], record: EncodedRecord | None) -> dict[str, Tensor]:
    """Add the encoded records (N, Z) to the feature maps, where the box branch of these heads looks for them."""
    return features if record is None else {**features, RECORD: record.vector}


class ConcatenatedLinear(nn.Module):
    """W·(Flatten(Z̃^RoI) ∪ Z^C) + b = W_region·Flatten(Z̃^RoI) + W_clinical·Z^C + b (paper, equation 4).

    The two parts differ in their number of inputs by a factor of about fifty. As parameters of their own they can have
    what each needs: its initialization and its learning rate. In one weight the record starts with a vanishing share
    of the output, and training may never find it.

    Args:
        region: the layer for the region's inputs, with its bias.
        clinical_features: Z, inputs that the record adds behind the region's.
    """

    def __init__(self, region: nn.Linear, clinical_features: int):
        super().__init__()
        self.region = region
        self.clinical = nn.Linear(clinical_features, region.out_features, bias=False)
        # A tenth of the usual scale: an untrained record is a random offset that the detector first has to unlearn.
        nn.init.normal_(self.clinical.weight, std=0.1 / clinical_features**0.5)

    @property
    def weight(self) -> Tensor:
        """(out, F + Z): the weight of the one linear map that this is."""
        return torch.cat([self.region.weight, self.clinical.weight], dim=1)

    def lr_groups(self) -> dict[str, str]:
        """Learning-rate group of the parameters that have one, see ``engine/optimizer.py``."""
        return {"clinical.weight": "clinical"}

    def forward(self, x: Tensor) -> Tensor:
        """(R, F + Z) → (R, out)."""
        region, clinical = x.split([self.region.in_features, self.clinical.in_features], dim=1)
        return self.region(region) + self.clinical(clinical)


@ROI_BOX_HEAD_REGISTRY.register()
class ClinicalFastRCNNConvFCHead(FastRCNNConvFCHead):
    """``FastRCNNConvFCHead`` whose first layer reads a flattened region and its image's encoded record.

    Without a record (``record_dim`` 0) it is its parent. Weights of a head without record are loaded into the region's
    part of the first layer.

    Args:
        input_shape: of a pooled region.
        record_dim: Z.

    Raises:
        ConfigError: convolutions before, or no fully connected layer behind the concatenation.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        fc_dims: list[int],
        conv_norm: str = "",
        record_dim: int = 0,
    ):
        super().__init__(input_shape, conv_dims=conv_dims, fc_dims=fc_dims, conv_norm=conv_norm)
        self.record_dim = record_dim
        if not record_dim:
            return
        if conv_dims or not fc_dims:
            raise ConfigError(
                "1-D fusion concatenates the record to flattened regions: it needs MODEL.ROI_BOX_HEAD.NUM_CONV 0 "
                f"and NUM_FC of at least 1, got {len(conv_dims)} and {len(fc_dims)}"
            )
        self.fc1 = self.fcs[0] = ConcatenatedLinear(self.fc1, record_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        record_dim = record_layout(cfg).dim if fuses_1d(cfg) else 0
        return {**super().from_config(cfg, input_shape), "record_dim": record_dim}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for part in ("weight", "bias"):
            old, new = f"{prefix}fc1.{part}", f"{prefix}fc1.region.{part}"
            if self.record_dim and old in state_dict and new not in state_dict:
                state_dict[new] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ClinicalROIPooler(nn.Module):
    """Pool regions, flatten them and append their image's encoded record.

    Args:
        pooler: a ``ROIPooler``.
    """

    def __init__(self, pooler: nn.Module):
        super().__init__()
        self.pooler = pooler

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool and concatenate.

        Args:
            x: the feature maps (N, D, h, w), and last the encoded records (N, Z).
            box_lists: N ``Boxes``, in image order.

        Returns:
            (R, F + Z).
        """
        *features, encoded = x
        regions = self.pooler(features, box_lists).flatten(start_dim=1)
        # shapes_to_tensor: a trace then follows the number of regions of another image
        counts = shapes_to_tensor([boxes.tensor.shape[0] for boxes in box_lists], device=encoded.device).long()
        return torch.cat([regions, encoded.repeat_interleave(counts, dim=0).to(regions.dtype)], dim=1)


class ClinicalBoxBranchMixin:
    """Put before RoI heads of Detectron2: their box branch then reads the record, if 1-D fusion is on.

    Attributes:
        reads_record: ``forward`` takes the record (Detectron2's own heads do not).
    """

    reads_record = True

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)
        if not fuses_1d(cfg):
            return parts
        return {
            **parts,
            "box_in_features": [*parts["box_in_features"], RECORD],
            "box_pooler": ClinicalROIPooler(parts["box_pooler"]),
        }

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        use_separable_roi_align(self)

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        record: EncodedRecord | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As the parent's, with the encoded records of the images, or None where the model reads none."""
        return super().forward(images, with_record(features, record), proposals, targets)


@ROI_HEADS_REGISTRY.register()
class ClinicalROIHeads(ClinicalBoxBranchMixin, StandardROIHeads):
    """``StandardROIHeads`` with 1-D clinical fusion (switched by ``MODEL.CLINICAL.FUSION_1D``)."""


@ROI_HEADS_REGISTRY.register()
class ClinicalCascadeROIHeads(ClinicalBoxBranchMixin, CascadeROIHeads):
    """``CascadeROIHeads`` with 1-D clinical fusion before the box head of every stage."""
