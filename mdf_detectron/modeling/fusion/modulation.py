"""Fusions that scale and shift whole channels; both start as the identity, so that the row has to earn its place.

Shape letters: N images, D channels, H×W cells of a feature map, Z width of the encoded row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdf_detectron.modeling.encoded_row import EncodedRow, RowLayout
from mdf_detectron.modeling.fusion.build import FUSION_REGISTRY, Fusion

HIDDEN_FEATURES = 64
DAFT_REDUCTION = 7
"""Inputs over hidden features of DAFT's perceptron, as in its paper, where that is not less than FiLM's."""


class _Modulation(Fusion):
    """I → (1 + γ)·I + β with γ, β (N, D) from a perceptron whose last layer starts at zero."""

    reads_row = True

    def __init__(self, channels: int, layout: RowLayout, in_features: int, hidden: int):
        super().__init__(channels, layout)
        self.hidden = nn.Linear(in_features, hidden)
        self.scale_shift = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(self.scale_shift.weight)
        nn.init.zeros_(self.scale_shift.bias)

    def modulate(self, image: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.scale_shift(self.hidden(condition).relu())[:, :, None, None].chunk(2, dim=1)
        return image * (1 + scale) + shift


@FUSION_REGISTRY.register()
class FiLM(_Modulation):
    """Scale and shift from the row: feature-wise linear modulation (Perez et al. 2018, equations 1 and 2)."""

    def __init__(self, channels: int, layout: RowLayout):
        super().__init__(channels, layout, layout.dim, HIDDEN_FEATURES)

    def forward(self, image: Tensor, clinical: EncodedRow) -> Tensor:
        """(N, D, H, W), rows (N, Z) → (N, D, H, W)."""
        return self.modulate(image, clinical.vector)


@FUSION_REGISTRY.register()
class DAFT(_Modulation):
    """Scale and shift from the row and the image together: dynamic affine feature map transform (Wolf et al. 2022).

    The image enters as the mean of each channel over the map, normalized over the channels: beside raw means, several
    times larger than a standardized row, the row is not learned.
    """

    def __init__(self, channels: int, layout: RowLayout):
        inputs = channels + layout.dim
        super().__init__(channels, layout, inputs, max(HIDDEN_FEATURES, inputs // DAFT_REDUCTION))

    def forward(self, image: Tensor, clinical: EncodedRow) -> Tensor:
        """(N, D, H, W), rows (N, Z) → (N, D, H, W)."""
        pooled = F.layer_norm(image.mean(dim=(2, 3)), image.shape[1:2])
        return self.modulate(image, torch.cat([pooled, clinical.vector], dim=1))
