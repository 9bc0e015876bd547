"""1-D fusion: the encoded row joins every flattened RoI (paper, equation 4: Flatten(Z̃^RoI) ∪ Z^C).

Shape letters: N images, R regions of all images, D channels, P pooler resolution, Z width of the encoded row.
"""

from __future__ import annotations

import torch
from detectron2.structures import Boxes
from torch import Tensor, nn


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
