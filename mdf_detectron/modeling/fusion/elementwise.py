"""Fusions without parameters: element-wise sum (the paper's choice) and Hadamard product."""

from __future__ import annotations

from torch import Tensor, nn

from mdf_detectron.modeling.fusion.build import FUSION_REGISTRY


@FUSION_REGISTRY.register()
class ElementwiseSum(nn.Module):
    """C ⊕ I = C + I (paper, equation 2)."""

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        """(N, D, H, W) twice → (N, D, H, W)."""
        return image + clinical


@FUSION_REGISTRY.register()
class HadamardProduct(nn.Module):
    """C ⊙ I, element by element."""

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        """(N, D, H, W) twice → (N, D, H, W)."""
        return image * clinical
