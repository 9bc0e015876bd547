"""An image backbone: a timm trunk cut at one stride, and a 3×3 convolution to the detector's width.

Shape letters: N images, C input channels, H×W pixels (multiples of the stride s), D output channels.
"""

from __future__ import annotations

import os

import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError


class TimmBackbone(Backbone):
    """(N, C, H, W) → {"<out_feature>": (N, D, H/s, W/s)}.

    Args:
        model_name: a timm model that supports ``features_only``.
        in_channels: C, 1 or 3.
        stride: s; the trunk's deepest feature map of that stride is used and deeper stages are not built.
        out_channels: D.
        pretrained: download timm's weights.
        weights_file: a local timm weights file for the trunk; excludes ``pretrained``.

    Raises:
        ConfigError: an unknown model, a stride the model does not have, or weights that cannot be had.
    """

    def __init__(
        self,
        *,
        model_name: str,
        in_channels: int,
        stride: int = 32,
        out_channels: int = 64,
        pretrained: bool = False,
        weights_file: str = "",
    ):
        super().__init__()
        self.trunk = _create_trunk(model_name, in_channels, stride, pretrained, weights_file)
        trunk_channels = self.trunk.feature_info.channels()[-1]
        self.conv = nn.Conv2d(trunk_channels, out_channels, kernel_size=3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear")
        nn.init.zeros_(self.conv.bias)
        self.stride = stride
        self._out_features = [f"p{stride.bit_length() - 1}"]
        self._out_feature_channels = {self._out_features[0]: out_channels}
        self._out_feature_strides = {self._out_features[0]: stride}

    @property
    def size_divisibility(self) -> int:
        return self.stride

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See the class."""
        return {self._out_features[0]: self.conv(self.trunk(x)[-1])}


def _create_trunk(name: str, in_channels: int, stride: int, pretrained: bool, weights_file: str) -> nn.Module:
    if name not in timm.list_models():
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ConfigError(f"MODEL.TIMM.NAME is '{name}', which timm {timm.__version__} does not have; near it: {close}")
    try:
        # Only the list of strides is wanted here: on the meta device nothing is computed or allocated.
        with torch.device("meta"):
            strides = timm.create_model(name, features_only=True).feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"MODEL.TIMM.NAME '{name}' does not offer feature maps: {error}") from None
    if stride not in strides:
        raise ConfigError(f"MODEL.TIMM.STRIDE is {stride}; '{name}' has feature maps of stride {sorted(set(strides))}")
    level = len(strides) - 1 - strides[::-1].index(stride)
    arguments = {"in_chans": in_channels, "features_only": True, "out_indices": (level,)}
    if weights_file:
        if not os.path.isfile(weights_file):
            raise ConfigError(f"MODEL.TIMM.WEIGHTS_FILE: no file at {weights_file}")
        arguments["pretrained_cfg_overlay"] = {"file": weights_file}
    try:
        trunk = timm.create_model(name, pretrained=pretrained or bool(weights_file), **arguments)
    except (OSError, RuntimeError) as error:
        if not (pretrained or weights_file):
            raise
        source = weights_file or f"timm's pretrained weights of '{name}'"
        raise ConfigError(
            f"could not load {source}: {error}. Without a network, download them elsewhere and set "
            "MODEL.TIMM.WEIGHTS_FILE, or set MODEL.TIMM.PRETRAINED False"
        ) from None
    return _without_unused_blocks(trunk)


def _without_unused_blocks(trunk: nn.Module) -> nn.Module:
    """Drop the blocks behind the feature map: timm keeps them in the MobileNet and EfficientNet families."""
    kind, _, number = trunk.feature_info.module_name()[-1].partition(".")
    if kind == "blocks" and number.isdigit():
        trunk.blocks = nn.Sequential(*trunk.blocks[: int(number) + 1])
    return trunk


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build a :class:`TimmBackbone` from ``cfg.MODEL.TIMM``."""
    t = cfg.MODEL.TIMM
    return TimmBackbone(
        model_name=t.NAME,
        in_channels=input_shape.channels,
        stride=t.STRIDE,
        out_channels=t.OUT_CHANNELS,
        pretrained=t.PRETRAINED,
        weights_file=t.WEIGHTS_FILE,
    )
