"""Fusions by concatenation of channels, then a learned projection back to the width of one map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mdf_detectron.modeling.encoded_row import RowLayout
from mdf_detectron.modeling.fusion.build import FUSION_REGISTRY, Fusion


class _Concatenation(Fusion):
    kernel_size: int

    def __init__(self, channels: int, layout: RowLayout):
        super().__init__(channels, layout)
        self.projection = nn.Conv2d(2 * channels, channels, self.kernel_size, padding=self.kernel_size // 2)
        nn.init.dirac_(self.projection.weight[:, :channels])
        nn.init.zeros_(self.projection.bias)

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        """(N, D, H, W) twice → (N, D, H, W)."""
        return self.projection(torch.cat([image, clinical], dim=1))


@FUSION_REGISTRY.register()
class ConcatenationLinear(_Concatenation):
    """W·(I ∪ C) + b at every position: the same linear map everywhere (a 1×1 convolution)."""

    kernel_size = 1


@FUSION_REGISTRY.register()
class ConcatenationConv(_Concatenation):
    """A 3×3 convolution over I ∪ C."""

    kernel_size = 3
