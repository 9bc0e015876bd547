"""The first layer behind a concatenation: one linear map, its weight kept in two parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
