"""Fusions without parameters: element-wise sum (the paper's choice) and Hadamard product."""

from __future__ import annotations

from torch import Tensor

from mdf_detectron.modeling.fusion.build import FUSION_REGISTRY, Fusion


@FUSION_REGISTRY.register()
class ElementwiseSum(Fusion):
    """C ⊕ I = C + I (paper, equation 2)."""

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        """(N, D, H, W) twice → (N, D, H, W)."""
        return image + clinical


@FUSION_REGISTRY.register()
class HadamardProduct(Fusion):
    """C ⊙ I, element by element."""

    neutral = 1.0

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        """(N, D, H, W) twice → (N, D, H, W)."""
        return image * clinical
