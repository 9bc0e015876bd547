"""Image backbones over a timm trunk: one feature map (the paper), or a feature pyramid.

Shape letters: N images, C input channels, H×W pixels (multiples of the stride s), D output channels.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.backbone.timm_trunk import TimmTrunk

FPN_TOP_OPTIONS = ("none", "maxpool", "p6p7")


class TimmBackbone(Backbone):
    """(N, C, H, W) → {"p<log2 s>": (N, D, H/s, W/s)}: a trunk cut at one stride, and a 3×3 convolution.

    Args:
        trunk: with one feature map.
        out_channels: D.
    """

    def __init__(self, trunk: TimmTrunk, out_channels: int = 64):
        super().__init__()
        self.trunk = trunk
        ((self._in_feature, shape),) = trunk.output_shape().items()
        self.conv = nn.Conv2d(shape.channels, out_channels, kernel_size=3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear")
        nn.init.zeros_(self.conv.bias)
        self._out_features = [self._in_feature.replace("c", "p")]
        self._out_feature_channels = {self._out_features[0]: out_channels}
        self._out_feature_strides = {self._out_features[0]: shape.stride}

    @property
    def size_divisibility(self) -> int:
        return self.trunk.size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See the class."""
        return {self._out_features[0]: self.conv(self.trunk(x)[self._in_feature])}


def _build_trunk(cfg: CfgNode, input_shape: ShapeSpec, strides: list[int]) -> TimmTrunk:
    t = cfg.MODEL.TIMM
    return TimmTrunk(
        model_name=t.NAME,
        in_channels=input_shape.channels,
        strides=strides,
        image_size=cfg.INPUT.IMAGE_SIZE,
        pretrained=t.PRETRAINED,
        weights_file=t.WEIGHTS_FILE,
        channels_last=t.CHANNELS_LAST,
    )


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """One feature map: ``MODEL.TIMM``."""
    return TimmBackbone(_build_trunk(cfg, input_shape, [cfg.MODEL.TIMM.STRIDE]), cfg.MODEL.TIMM.OUT_CHANNELS)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A pyramid over the levels "c<log2 stride>" of ``MODEL.FPN.IN_FEATURES``, with Detectron2's FPN and its keys.

    Raises:
        ConfigError: levels that are not named "c2" … or skip one, or an unknown ``MODEL.TIMM.FPN_TOP``.
    """
    fpn, top = cfg.MODEL.FPN, cfg.MODEL.TIMM.FPN_TOP
    levels = sorted(int(name[1:]) if name[:1] == "c" and name[1:].isdigit() else -1 for name in fpn.IN_FEATURES)
    if not levels or levels != list(range(levels[0], levels[0] + len(levels))) or levels[0] < 0:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is {list(fpn.IN_FEATURES)}; name levels without a gap, as c<log2 of the stride>: "
            "[c3, c4, c5] for strides 8, 16, 32"
        )
    if top not in FPN_TOP_OPTIONS:
        raise ConfigError(f"MODEL.TIMM.FPN_TOP is '{top}'; use one of {FPN_TOP_OPTIONS}")
    trunk = _build_trunk(cfg, input_shape, [2**level for level in levels])
    in_features = [f"c{level}" for level in levels]
    top_block = None
    if top == "maxpool":
        top_block = LastLevelMaxPool()
        top_block.in_feature = f"p{levels[-1]}"
    elif top == "p6p7":
        channels = trunk.output_shape()[in_features[-1]].channels
        top_block = LastLevelP6P7(channels, fpn.OUT_CHANNELS, in_feature=in_features[-1])
    return FPN(
        bottom_up=trunk,
        in_features=in_features,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )
