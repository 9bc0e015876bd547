"""Registry of the 3-D fusions: a class joins an image's feature map with the clinical row.

Shape letters: N images, D channels, H×W cells of a feature map.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.encoded_row import EncodedRow, RowLayout

FUSION_REGISTRY = Registry("FUSION")
FUSION_REGISTRY.__doc__ = """
Fusions of a feature map with the clinical row.

A registered class is a :class:`Fusion`: it is called with ``channels`` (D) and ``layout`` (a ``RowLayout``) and
returns a module ``forward(image: (N, D, H, W), clinical) -> (N, D, H, W)``.
"""


class Fusion(nn.Module):
    """Base of the fusions.

    Attributes:
        reads_row: False: ``clinical`` is a map (N, D, H, W), which a clinical branch makes of the row.  True: it is
            the :class:`EncodedRow` itself, and the model has no clinical branch.
        neutral: value of a clinical map that leaves the image's map as it is; training starts near it, because an
            untrained row is noise that the detector would first have to unlearn.
    """

    reads_row = False
    neutral = 0.0

    def __init__(self, channels: int, layout: RowLayout):
        super().__init__()


class FusedConvolution(nn.Module):
    """f_fused(C ⊕ I): a fusion, then a 3×3 convolution (paper, equation 2), which starts as the identity."""

    def __init__(self, fusion: Fusion, channels: int, use_conv: bool = True):
        super().__init__()
        self.fusion = fusion
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1) if use_conv else nn.Identity()
        if use_conv:
            nn.init.dirac_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)

    def forward(self, image: Tensor, clinical: Tensor | EncodedRow) -> Tensor:
        """(N, D, H, W) and what the fusion reads → (N, D, H, W).

        Raises:
            ValueError: maps of different shape, or rows of another number than images: nothing is broadcast.
        """
        if self.fusion.reads_row:
            if len(clinical.vector) != len(image):
                raise ValueError(f"cannot fuse {len(image)} image(s) with {len(clinical.vector)} row(s)")
        elif image.shape != clinical.shape:
            raise ValueError(f"cannot fuse maps of shape {tuple(image.shape)} and {tuple(clinical.shape)}")
        return self.conv(self.fusion(image, clinical))


def fusion_class(cfg: CfgNode) -> type[Fusion]:
    """The class that ``MODEL.FUSION.NAME`` names."""
    name = cfg.MODEL.FUSION.NAME
    if name not in FUSION_REGISTRY:
        known = sorted(key for key, _ in FUSION_REGISTRY)
        raise ConfigError(f"MODEL.FUSION.NAME is '{name}'; use one of {known}")
    return FUSION_REGISTRY.get(name)


def build_fusion(cfg: CfgNode, channels: int, layout: RowLayout) -> FusedConvolution:
    """The fusion that ``MODEL.FUSION`` asks for, for maps of ``channels`` channels."""
    return FusedConvolution(fusion_class(cfg)(channels, layout), channels, cfg.MODEL.FUSION.CONV)
