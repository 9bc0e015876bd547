"""The trunk of any timm model as a Detectron2 backbone: its feature maps, chosen by stride.

Shape letters: N images, C input channels, H×W pixels (multiples of the largest stride), s a stride, D_s channels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import timm
import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError


class TimmTrunk(Backbone):
    """(N, C, H, W) → {"c<log2 s>": (N, D_s, H/s, W/s)}, with the names of the FPN paper ("c5" is stride 32).

    Args:
        model_name: a timm model that supports ``features_only``.
        in_channels: C, 1 or 3.
        strides: the strides wanted; of several maps of one stride the deepest is used, deeper stages are not built.
        image_size: side of the input in pixels, for models that are built for one size.
        pretrained: download timm's weights.
        weights_file: a local timm weights file; excludes ``pretrained``.
        channels_last: memory format of the maps within the trunk, and of those it gives.

    Raises:
        ConfigError: an unknown model, a stride the model does not have, or weights that cannot be had.
    """

    def __init__(
        self,
        *,
        model_name: str,
        in_channels: int,
        strides: Sequence[int],
        image_size: int = 512,
        pretrained: bool = False,
        weights_file: str = "",
        channels_last: bool = False,
    ):
        super().__init__()
        if not strides:
            raise ConfigError(f"no stride is asked of '{model_name}'; name one or more")
        strides = sorted(set(strides))
        options = {"img_size": image_size} if _has_fixed_size(model_name) else {}
        levels = _levels(model_name, strides, options)
        options |= {"in_chans": in_channels, "features_only": True, "out_indices": levels}
        self.model = _create(model_name, pretrained, weights_file, options)
        self.permuted = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        self.channels_last = channels_last
        self._out_features = [f"c{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_channels = dict(zip(self._out_features, self.model.feature_info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See the class."""
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        maps = self.model(_in_format(x, memory_format))
        if self.permuted:  # Swin and its kin give (N, H/s, W/s, D_s)
            maps = [m.permute(0, 3, 1, 2).contiguous(memory_format=memory_format) for m in maps]
        return dict(zip(self._out_features, maps, strict=True))


def _in_format(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Also where a map of one channel is in both formats at once: convolutions go by the strides."""
    if x.shape[1] > 1 or memory_format == torch.contiguous_format:
        return x.contiguous(memory_format=memory_format)
    n, _, height, width = x.shape
    return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))


def _has_fixed_size(name: str) -> bool:
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:5]
        raise ConfigError(f"MODEL.TIMM.NAME is '{name}', which timm {timm.__version__} does not have; near it: {close}")
    config = timm.get_pretrained_cfg(name)
    return config is not None and config.fixed_input_size


def _levels(name: str, strides: Sequence[int], options: dict) -> tuple[int, ...]:
    try:
        # Only the list of strides is wanted here: on the meta device nothing is computed or allocated.
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


def _create(name: str, pretrained: bool, weights_file: str, options: dict) -> nn.Module:
    if weights_file:
        if not os.path.isfile(weights_file):
            raise ConfigError(f"MODEL.TIMM.WEIGHTS_FILE: no file at {weights_file}")
        options = {**options, "pretrained_cfg_overlay": {"file": weights_file}}
    try:
        model = timm.create_model(name, pretrained=pretrained or bool(weights_file), **options)
    except (OSError, RuntimeError) as error:
        if not (pretrained or weights_file):
            raise
        source = weights_file or f"timm's pretrained weights of '{name}'"
        raise ConfigError(
            f"could not load {source}: {error}. Without a network, download them elsewhere and set "
            "MODEL.TIMM.WEIGHTS_FILE, or set MODEL.TIMM.PRETRAINED False"
        ) from None
    return _without_unused_blocks(model)


def _without_unused_blocks(model: nn.Module) -> nn.Module:
    """Drop the blocks behind the last feature map: timm keeps them in the MobileNet and EfficientNet families."""
    kind, _, number = model.feature_info.module_name()[-1].partition(".")
    if kind == "blocks" and number.isdigit() and hasattr(model, "blocks"):
        model.blocks = nn.Sequential(*model.blocks[: int(number) + 1])
    return model
