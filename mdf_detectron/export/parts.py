"""Modules in a form that TorchScript and ONNX can hold, with the weights of those of a trained model.

What is replaced is written for speed in training, with memory formats and operators of its own, or asks for sizes that
a trace would fix. What comes in its place computes the same in evaluation.

Shape letters: N records, Z width of the encoded record, D channels, h×w cells of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdf_detectron.modeling.deconv_fast.spatializer import FEW_CHANNELS, Spatializer, SpatializerStage


def with_exportable_parts(module: nn.Module) -> nn.Module:
    """Replace every module within ``module`` that needs it; ``module`` is changed and returned."""
    for name, child in module.named_children():
        if isinstance(child, Spatializer):
            setattr(module, name, PlainSpatializer(child))
        else:
            with_exportable_parts(child)
    return module


class PlainSpatializer(nn.Module):
    """A spatializer whose stages are plain layers, and which is always resized to the size that is asked for.

    Args:
        spatializer: gives the weights.
    """

    def __init__(self, spatializer: Spatializer):
        super().__init__()
        self.stages = nn.Sequential(*(plain_stage(stage) for stage in spatializer.stages))

    def forward(self, encoded: Tensor, size: Sequence[int]) -> Tensor:
        """(N, Z) → (N, D, *size)."""
        x = self.stages(encoded[:, :, None, None])
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def plain_stage(stage: SpatializerStage) -> nn.Sequential:
    """Make plain layers of a stage: a 1×1 convolution and a shuffle of its pixels (the deconvolution), ReLU, a 3×3
    convolution; batch norms folded in.
    """
    deconvolution, norm, _, convolution, second_norm, *_ = stage
    weight, bias, kernel, kernel_bias = (
        p.detach() for p in (deconvolution.weight, deconvolution.bias, convolution.weight, convolution.bias)
    )
    behind = [] if stage.last else [nn.ReLU()]
    if not stage.foldable:
        first, second = _first_layer(weight, bias), _layer(kernel, kernel_bias)
        return nn.Sequential(first, nn.PixelShuffle(2), norm, nn.ReLU(), second, second_norm, *behind)
    scale, shift = _affine(norm)
    first = _first_layer(weight * scale[:, None, None], bias * scale + shift)
    scale, shift = _affine(second_norm)
    kernel, kernel_bias = kernel * scale[:, None, None, None], kernel_bias * scale + shift
    if len(kernel) > FEW_CHANNELS:
        second = [nn.PixelShuffle(2), _layer(kernel, kernel_bias)]
    else:  # as in training, the large map between is not moved: see ``deconvolve_and_convolve``
        second = [_taps(kernel), nn.PixelShuffle(2), _sum_of_taps(kernel_bias)]
    return nn.Sequential(first, nn.ReLU(), *second, *behind)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def _layer(kernel: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Make a convolution that keeps the size of the map."""
    out, inputs, side, _ = kernel.shape
    layer = nn.Conv2d(inputs, out, side, padding=side // 2, bias=bias is not None)
    layer.load_state_dict({"weight": kernel} | ({} if bias is None else {"bias": bias}))
    return layer


def _first_layer(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """(I, D, 2, 2) of a deconvolution → a 1×1 convolution whose channels come in the order (D, row, column)."""
    inputs, channels = weight.shape[:2]
    kernel = weight.permute(1, 2, 3, 0).reshape(4 * channels, inputs, 1, 1)
    return _layer(kernel, bias.repeat_interleave(4))


def _taps(kernel: Tensor) -> nn.Conv2d:
    """(O, D, 3, 3) → a 1×1 convolution of (D, row, column) to the products of each tap, (3, 3, O, row, column)."""
    products = kernel.permute(2, 3, 0, 1).flatten(0, 2).contiguous()  # (9·O, D)
    return _layer(torch.kron(products, torch.eye(4))[:, :, None, None], None)


def _sum_of_taps(bias: Tensor) -> nn.Conv2d:
    """A 3×3 convolution of (3, 3, O) channels that sums the product of each tap at the tap's place."""
    count = len(bias)
    identity = torch.eye(9 * count).reshape(3, 3, count, 9 * count)
    return _layer(identity.permute(2, 3, 0, 1), bias)
