"""Fusion by attention: every cell of the map looks at the columns of the row that are there.

Shape letters: N images, D channels, H×W cells of a feature map, L columns, M heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.encoded_row import EncodedRow, RowLayout
from mdf_detectron.modeling.fusion.build import FUSION_REGISTRY, Fusion

NUM_HEADS = 4


class ColumnTokens(nn.Module):
    """One token a column (Gorishniy et al. 2021, "feature tokenizer"): its entries through a linear map of its own.

    Args:
        layout: of the vectors.
        channels: D.
    """

    def __init__(self, layout: RowLayout, channels: int):
        super().__init__()
        self.layout = layout
        self.projections = nn.ModuleList(nn.Linear(width, channels) for width in layout.column_widths)

    def forward(self, vector: Tensor) -> Tensor:
        """(N, Z) → (N, L, D)."""
        columns = self.layout.columns(vector)
        return torch.stack([p(x) for p, x in zip(self.projections, columns, strict=True)], dim=1)


@FUSION_REGISTRY.register()
class CrossAttention(Fusion):
    """I + W_o·Attention(queries: cells of I, keys and values: tokens of the columns) (Vaswani et al. 2017).

    A missing column is masked out.  A learned token that is always there takes what a cell does not want to give to
    any column; without a row it is all there is to see.  W_o starts at zero, so that the untrained fusion is the
    identity.
    """

    reads_row = True

    def __init__(self, channels: int, layout: RowLayout):
        super().__init__(channels, layout)
        if channels % NUM_HEADS:
            raise ConfigError(f"CrossAttention has {NUM_HEADS} heads: the map's {channels} channels must divide by it")
        self.tokens = ColumnTokens(layout, channels)
        self.no_column = nn.Parameter(torch.randn(1, 1, channels) * channels**-0.5)
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image: Tensor, clinical: EncodedRow) -> Tensor:
        """(N, D, H, W), rows of L columns → (N, D, H, W)."""
        count, channels, height, width = image.shape
        tokens = torch.cat([self.tokens(clinical.vector), self.no_column.expand(count, -1, -1)], dim=1)
        visible = F.pad(clinical.present, (0, 1), value=True)
        queries = self.query(self.norm(image.flatten(2).transpose(1, 2)))
        keys, values = self.key_value(tokens).chunk(2, dim=-1)
        heads = [x.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2) for x in (queries, keys, values)]
        seen = F.scaled_dot_product_attention(*heads, attn_mask=visible[:, None, None, :])
        seen = self.out(seen.transpose(1, 2).flatten(2))
        return image + seen.transpose(1, 2).reshape(count, channels, height, width)
