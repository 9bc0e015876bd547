"""3-D fusions: classes that join an image's feature map with the clinical record.

Of two maps: element-wise sum (the paper's choice), Hadamard product, concatenation. Of a map and the encoded record:
FiLM, cross-attention; these start as the identity.

Shape letters: N images, D channels, H×W cells of a feature map, Z width of the encoded record, L columns.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.clinical_encoder import EncodedRecord, RecordLayout

MAP, RECORD = "map", "record"
"""What a fusion may read: the clinical branch's map of the record, or the encoded record itself."""

FUSION_REGISTRY = Registry("FUSION")
FUSION_REGISTRY.__doc__ = """
Fusions of a feature map with the clinical record.

A registered class is a :class:`Fusion`, built as ``cls(cfg, channels, layout)``: hyperparameters come from the config
by ``from_config``, as everywhere in Detectron2.
"""


class Fusion(nn.Module):
    """Base of the fusions: ``forward(image, *reads)`` → (N, D, H, W).

    Args:
        channels: D.
        layout: of the encoded record.

    Attributes:
        reads: ``forward``'s arguments after the image, in order: :data:`MAP`, the clinical map (N, D, H, W), for which
            the model gets a clinical branch, or :data:`RECORD`, the :class:`EncodedRecord`.
        neutral: value of a clinical map that leaves the image's map unchanged. Training starts near it: an untrained
            record is noise that the detector would first have to unlearn.
    """

    reads: tuple[str, ...] = (MAP,)
    neutral = 0.0

    @configurable
    def __init__(self, channels: int, layout: RecordLayout):
        super().__init__()

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int, layout: RecordLayout) -> dict[str, Any]:
        """Collect the arguments of ``__init__``; a subclass with hyperparameters adds its own."""
        return {"channels": channels, "layout": layout}

    def lr_groups(self) -> dict[str, str]:
        """Return the learning-rate group of the parameters that read the record (see ``engine/optimizer.py``)."""
        names = (name for name, _ in self.named_parameters()) if RECORD in self.reads else ()
        return dict.fromkeys(names, "clinical")

    def joined_parts(self, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image's map, and the clinical map or else what the record added to it, for diagnostics."""
        image, first, *_ = inputs
        return image, first if self.reads == (MAP,) else output - image


class FusedConvolution(nn.Module):
    """f_fused(C ⊕ I): a fusion, then a 3×3 convolution that starts as the identity (paper, equation 2)."""

    def __init__(self, fusion: Fusion, channels: int, use_conv: bool = True):
        super().__init__()
        self.fusion = fusion
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1) if use_conv else nn.Identity()
        if use_conv:
            nn.init.dirac_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)

    def forward(self, image: Tensor, clinical_map: Tensor | None, record: EncodedRecord) -> Tensor:
        """Fuse (N, D, H, W), a clinical map of the same shape (None without a branch) and N records → (N, D, H, W).

        Other shapes or numbers raise ValueError; nothing is broadcast.
        """
        if len(record.vector) != len(image):
            raise ValueError(f"cannot fuse {len(image)} image(s) with {len(record.vector)} record(s)")
        if MAP in self.fusion.reads and (clinical_map is None or image.shape != clinical_map.shape):
            other = None if clinical_map is None else tuple(clinical_map.shape)
            raise ValueError(f"cannot fuse maps of shape {tuple(image.shape)} and {other}")
        given = {MAP: clinical_map, RECORD: record}
        return self.conv(self.fusion(image, *(given[name] for name in self.fusion.reads)))


def fusion_class(cfg: CfgNode) -> type[Fusion]:
    """Return the class that ``MODEL.FUSION.NAME`` names."""
    name = cfg.MODEL.FUSION.NAME
    if name not in FUSION_REGISTRY:
        known = sorted(key for key, _ in FUSION_REGISTRY)
        raise ConfigError(f"MODEL.FUSION.NAME is '{name}'; use one of {known}")
    return FUSION_REGISTRY.get(name)


def build_fusion(cfg: CfgNode, channels: int, layout: RecordLayout) -> FusedConvolution:
    """Build the fusion that ``MODEL.FUSION`` asks for, for maps of ``channels`` channels."""
    return FusedConvolution(fusion_class(cfg)(cfg, channels, layout), channels, cfg.MODEL.FUSION.CONV)


@FUSION_REGISTRY.register()
class ElementwiseSum(Fusion):
    """C ⊕ I = C + I (paper, equation 2)."""

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        return image + clinical


@FUSION_REGISTRY.register()
class HadamardProduct(Fusion):
    """C ⊙ I, element by element."""

    neutral = 1.0

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        return image * clinical


class _Concatenation(Fusion):
    kernel_size: int

    @configurable
    def __init__(self, channels: int, layout: RecordLayout):
        super().__init__(channels, layout)
        self.projection = nn.Conv2d(2 * channels, channels, self.kernel_size, padding=self.kernel_size // 2)
        nn.init.dirac_(self.projection.weight[:, :channels])
        nn.init.zeros_(self.projection.bias)

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        return self.projection(torch.cat([image, clinical], dim=1))


@FUSION_REGISTRY.register()
class ConcatenationLinear(_Concatenation):
    """W·(I ∪ C) + b at every cell (a 1×1 convolution)."""

    kernel_size = 1


@FUSION_REGISTRY.register()
class ConcatenationConv(_Concatenation):
    """A 3×3 convolution over I ∪ C."""

    kernel_size = 3


HIDDEN_FEATURES = 64


@FUSION_REGISTRY.register()
class FiLM(Fusion):
    """I → (1 + γ)·I + β: feature-wise linear modulation (Perez et al. 2018, equations 1 and 2).

    γ and β, (N, D), come from a perceptron over the record whose last layer starts at zero.
    """

    reads = (RECORD,)

    @configurable
    def __init__(self, channels: int, layout: RecordLayout):
        super().__init__(channels, layout)
        self.hidden = nn.Linear(layout.dim, HIDDEN_FEATURES)
        self.scale_shift = nn.Linear(HIDDEN_FEATURES, 2 * channels)
        nn.init.zeros_(self.scale_shift.weight)
        nn.init.zeros_(self.scale_shift.bias)

    def forward(self, image: Tensor, clinical: EncodedRecord) -> Tensor:
        scale, shift = self.scale_shift(self.hidden(clinical.vector).relu())[:, :, None, None].chunk(2, dim=1)
        return image * (1 + scale) + shift


NUM_HEADS = 4


class ColumnTokens(nn.Module):
    """Map each column linearly to a token of D channels, (N, Z) → (N, L, D) (Gorishniy et al. 2021)."""

    def __init__(self, layout: RecordLayout, channels: int):
        super().__init__()
        self.layout = layout
        self.projections = nn.ModuleList(nn.Linear(width, channels) for width in layout.column_widths)

    def forward(self, vector: Tensor) -> Tensor:
        columns = self.layout.columns(vector)
        return torch.stack([p(x) for p, x in zip(self.projections, columns, strict=True)], dim=1)


@FUSION_REGISTRY.register()
class CrossAttention(Fusion):
    """I + W_o·Attention(queries: cells of I, keys and values: tokens of the columns) (Vaswani et al. 2017).

    Missing columns are masked out. A learned token, always present, takes the attention that no column gets; without
    a record it is the only one. W_o starts at zero, so that the untrained fusion is the identity.
    """

    reads = (RECORD,)

    @configurable
    def __init__(self, channels: int, layout: RecordLayout):
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

    def forward(self, image: Tensor, clinical: EncodedRecord) -> Tensor:
        count, channels, height, width = image.shape
        tokens = torch.cat([self.tokens(clinical.vector), self.no_column.expand(count, -1, -1)], dim=1)
        visible = F.pad(clinical.present, (0, 1), value=True)
        queries = self.query(self.norm(image.flatten(2).transpose(1, 2)))
        keys, values = self.key_value(tokens).chunk(2, dim=-1)
        heads = [x.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2) for x in (queries, keys, values)]
        seen = F.scaled_dot_product_attention(*heads, attn_mask=visible[:, None, None, :])
        seen = self.out(seen.transpose(1, 2).flatten(2))
        return image + seen.transpose(1, 2).reshape(count, channels, height, width)
