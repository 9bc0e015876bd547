"""Registry of the 3-D fusions: a class joins an image's feature map with the clinical one."""

from __future__ import annotations

from detectron2.utils.registry import Registry
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError

FUSION_REGISTRY = Registry("FUSION")
FUSION_REGISTRY.__doc__ = """
Fusions of two feature maps of the same shape.

A registered class is called with ``channels`` (D) and returns a module
``forward(image: (N, D, H, W), clinical: (N, D, H, W)) -> (N, D, H, W)``.
"""


class FusedConvolution(nn.Module):
    """f_fused(C ⊕ I): a fusion, then a 3×3 convolution (paper, equation 2)."""

    def __init__(self, fusion: nn.Module, channels: int, use_conv: bool = True):
        super().__init__()
        self.fusion = fusion
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1) if use_conv else nn.Identity()
        if use_conv:
            nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear")
            nn.init.zeros_(self.conv.bias)

    def forward(self, image: Tensor, clinical: Tensor) -> Tensor:
        """(N, D, H, W) twice → (N, D, H, W); maps of different shape raise ``ValueError``."""
        if image.shape != clinical.shape:
            raise ValueError(f"cannot fuse maps of shape {tuple(image.shape)} and {tuple(clinical.shape)}")
        return self.conv(self.fusion(image, clinical))


def build_fusion(cfg, channels: int) -> FusedConvolution:
    """The fusion that ``MODEL.FUSION`` asks for, for maps of ``channels`` channels."""
    name = cfg.MODEL.FUSION.NAME
    if name not in FUSION_REGISTRY:
        known = sorted(key for key, _ in FUSION_REGISTRY)
        raise ConfigError(f"MODEL.FUSION.NAME is '{name}'; use one of {known}")
    return FusedConvolution(FUSION_REGISTRY.get(name)(channels=channels), channels, cfg.MODEL.FUSION.CONV)
