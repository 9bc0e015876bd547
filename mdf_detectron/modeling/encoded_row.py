"""The encoded row as the parts of the model hand it on: its vector, and which columns it was made of.

Shape letters: N rows, Z width of the vector, L columns (numeric, then categorical).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mdf_detectron.data.clinical_schema import MISSING_CATEGORY


class EncodedRow(NamedTuple):
    """A batch of encoded rows.

    Attributes:
        vector: (N, Z) float, Z^C.
        present: (N, L) bool, False where the column is missing.
    """

    vector: Tensor
    present: Tensor


@dataclass(frozen=True)
class RowLayout:
    """How a vector is made of its columns.

    Attributes:
        dim: Z.
        column_widths: length L; the columns' entries follow each other from the first entry of the vector on.
            What lies behind them (indicators of missing values) belongs to no column.
    """

    dim: int
    column_widths: tuple[int, ...]

    def columns(self, vector: Tensor) -> list[Tensor]:
        """(N, Z) → L tensors (N, width)."""
        return list(vector[:, : sum(self.column_widths)].split(list(self.column_widths), dim=1))


def present_columns(numeric: Tensor, categorical: Tensor) -> Tensor:
    """(N, A) float with NaN, (N, B) long with -1 → (N, A + B) bool."""
    return torch.cat([~torch.isnan(numeric), categorical != MISSING_CATEGORY], dim=1)
