"""Image backbones over a timm trunk: one feature map (the paper), or a feature pyramid.

Shape letters: N images, C input channels, H×W pixels (multiples of the largest stride), s a stride, D_s channels of the
trunk's map of stride s, D output channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mdf_detectron.errors import ConfigError


class TimmTrunk(Backbone):
    """Compute feature maps by a timm model: (N, C, H, W) → {"c<log2 s>": (N, D_s, H/s, W/s)}; "c5" is stride 32.

    The weights are random; :mod:`~mdf_detectron.modeling.pretrained` loads others when a training starts.

    Args:
        model_name: a timm model that supports ``features_only``.
        in_channels: C, 1 or 3.
        strides: the strides wanted; the deepest map of each is used, and later stages are not built.
        image_size: side of the input in pixels, for models that are built for one size.
        batch_norm: eps and momentum of the batch norms; empty: timm's.
        channels_last: use this memory format within the trunk and for its maps.
        freeze_at: n keeps all weights that the map of stride 2^n is computed from as they are, and their norms in
            evaluation mode; 1 is mostly the stem. 0 freezes nothing.

    Raises:
        ConfigError: an unknown model, or a stride that it does not have.
    """

    def __init__(
        self,
        *,
        model_name: str,
        in_channels: int,
        strides: Sequence[int],
        image_size: int = 512,
        batch_norm: Sequence[float] = (),
        channels_last: bool = False,
        freeze_at: int = 0,
    ):
        super().__init__()
        if not strides:
            raise ConfigError(f"no stride is asked of '{model_name}'; name one or more")
        strides = sorted(set(strides))
        options = {"img_size": image_size} if _has_fixed_size(model_name) else {}
        levels = _levels(model_name, strides, options)
        options |= {"in_chans": in_channels, "features_only": True, "out_indices": levels}
        self.model_name, self.options = model_name, options
        self.model = create_trunk(model_name, options)
        if batch_norm:
            set_batch_norm(self.model, *batch_norm)
        self.permuted = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        self.channels_last = channels_last
        self._out_features = [f"c{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_channels = dict(zip(self._out_features, self.model.feature_info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._frozen = self._freeze(2**freeze_at) if freeze_at else []

    def _freeze(self, stride: int) -> list[nn.Module]:
        """Freeze the parameters that the map of a stride is computed from; return their modules."""
        if stride > self.size_divisibility:
            raise ConfigError(
                f"MODEL.BACKBONE.FREEZE_AT {stride.bit_length() - 1} freezes up to stride {stride}, but the trunk ends "
                f"at stride {self.size_divisibility}"
            )
        fixed = {key: value for key, value in self.options.items() if key == "img_size"}
        side, levels = fixed.get("img_size", 64), _levels(self.model_name, [stride], fixed)
        with torch.device("meta"), torch.enable_grad():  # the same model, ending in that map, without any arithmetic
            part = create_trunk(self.model_name, self.options | {"out_indices": levels})
            (out,) = part(torch.empty(2, self.options["in_chans"], side, side))
            names, parameters = zip(*part.named_parameters(), strict=True)
            grads = torch.autograd.grad(out.sum(), parameters, allow_unused=True)
        frozen = {name for name, grad in zip(names, grads, strict=True) if grad is not None}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return [self.model.get_submodule(name) for name in sorted({n.rpartition(".")[0] for n in frozen})]

    def train(self, mode: bool = True) -> TimmTrunk:
        """Set the mode of all modules but the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        maps = self.model(_in_format(x, memory_format))
        if self.permuted:  # Swin and similar models give (N, H/s, W/s, D_s)
            maps = [m.permute(0, 3, 1, 2).contiguous(memory_format=memory_format) for m in maps]
        return dict(zip(self._out_features, maps, strict=True))


def _in_format(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Convert ``x``, strides included: one channel satisfies both formats, but convolutions go by the strides."""
    if x.shape[1] > 1 or memory_format == torch.contiguous_format:
        return x.contiguous(memory_format=memory_format)
    n, _, height, width = x.shape
    return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))


def _has_fixed_size(name: str) -> bool:
    import timm  # slow to import, and only needed where a model is built

    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:5]
        raise ConfigError(f"MODEL.TIMM.NAME is '{name}', which timm {timm.__version__} does not have; near it: {close}")
    config = timm.get_pretrained_cfg(name)
    return config is not None and config.fixed_input_size


def _levels(name: str, strides: Sequence[int], options: dict) -> tuple[int, ...]:
    import timm

    try:
        # only the strides are needed: the meta device computes and allocates nothing
        with torch.device("meta"):
            known = timm.create_model(name, features_only=True, **options).feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError, NotImplementedError, AssertionError) as error:
        raise ConfigError(f"MODEL.TIMM.NAME '{name}' does not offer feature maps: {error}") from None
    for stride in strides:
        if stride not in known:
            raise ConfigError(
                f"'{name}' has no feature map of stride {stride}, but of stride {sorted(set(known))}; "
                "see MODEL.TIMM.STRIDE, or MODEL.FPN.IN_FEATURES"
            )
    return tuple(len(known) - 1 - known[::-1].index(stride) for stride in strides)


def create_trunk(name: str, options: dict[str, Any], **weights: Any) -> nn.Module:
    """Build a timm model that ends at the last feature map that ``options`` ask for."""
    import timm

    return _without_unused_blocks(timm.create_model(name, **options, **weights))


def set_batch_norm(model: nn.Module, eps: float, momentum: float) -> None:
    """Set eps and momentum of every batch norm (ConvNeXt and Swin have none)."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eps, module.momentum = eps, momentum


def _without_unused_blocks(model: nn.Module) -> nn.Module:
    """Drop the blocks after the last feature map, which timm keeps in the MobileNet and EfficientNet families."""
    kind, _, number = model.feature_info.module_name()[-1].partition(".")
    if kind == "blocks" and number.isdigit() and hasattr(model, "blocks"):
        model.blocks = nn.Sequential(*model.blocks[: int(number) + 1])
    return model


FPN_TOP_OPTIONS = ("none", "maxpool", "p6p7")


class TimmBackbone(Backbone):
    """Trunk with one feature map, then a 3×3 convolution: (N, C, H, W) → {"p<log2 s>": (N, D, H/s, W/s)}."""

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
        return {self._out_features[0]: self.conv(self.trunk(x)[self._in_feature])}


def _build_trunk(cfg: CfgNode, input_shape: ShapeSpec, strides: list[int]) -> TimmTrunk:
    t = cfg.MODEL.TIMM
    return TimmTrunk(
        model_name=t.NAME,
        in_channels=input_shape.channels,
        strides=strides,
        image_size=cfg.INPUT.IMAGE_SIZE,
        batch_norm=t.BATCH_NORM,
        channels_last=True,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build a backbone of one feature map from ``MODEL.TIMM``."""
    return TimmBackbone(_build_trunk(cfg, input_shape, [cfg.MODEL.TIMM.STRIDE]), cfg.MODEL.TIMM.OUT_CHANNELS)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN over the trunk levels "c<log2 stride>" of ``MODEL.FPN.IN_FEATURES``, without gaps."""
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


def build_image_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build the backbone of ``MODEL.IMAGE_BACKBONE.NAME``, any in the registry but the dual backbone itself."""
    name = cfg.MODEL.IMAGE_BACKBONE.NAME
    known = sorted(key for key, _ in BACKBONE_REGISTRY if key != cfg.MODEL.BACKBONE.NAME)
    if name not in known:
        raise ConfigError(f"MODEL.IMAGE_BACKBONE.NAME is '{name}'; use one of {known}")
    return BACKBONE_REGISTRY.get(name)(cfg, input_shape)
