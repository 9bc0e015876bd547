"""Rows hidden in training, so that one model answers with a full row, a part of it, or none.

Shape letters: N rows, A numeric columns, B categorical columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mdf_detectron.data.clinical_schema import MISSING_CATEGORY


class ClinicalDropout(nn.Module):
    """Makes rows and cells missing at random; in evaluation it does nothing.

    Args:
        row_probability: that a row is hidden as a whole.
        cell_probability: that a cell of the other rows is hidden, each on its own.
    """

    def __init__(self, row_probability: float = 0.0, cell_probability: float = 0.0):
        super().__init__()
        for name, value in (("row_probability", row_probability), ("cell_probability", cell_probability)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        self.row_probability = row_probability
        self.cell_probability = cell_probability

    def forward(self, numeric: Tensor, categorical: Tensor) -> tuple[Tensor, Tensor]:
        """(N, A) float with NaN, (N, B) long with -1 → the same with more of both; the inputs stay as they are."""
        if not self.training or not (self.row_probability or self.cell_probability):
            return numeric, categorical
        count, width = numeric.shape
        cells = torch.rand(count, width + categorical.shape[1], device=numeric.device) < self.cell_probability
        hidden = cells | (torch.rand(count, 1, device=numeric.device) < self.row_probability)
        return (
            numeric.masked_fill(hidden[:, :width], math.nan),
            categorical.masked_fill(hidden[:, width:], MISSING_CATEGORY),
        )

    def extra_repr(self) -> str:
        return f"row_probability={self.row_probability}, cell_probability={self.cell_probability}"
