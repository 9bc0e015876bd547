"""Mean and covariance of a map's channels, and from them the batch statistics of a linear map of those channels.

A batch norm behind a 1×1 convolution needs the mean and variance of each of its outputs.  Both follow from the inputs'
mean and covariance, which are four times fewer numbers where the convolution makes four pixels of each.

Shape letters: N maps, C channels, h×w cells, P = N·h·w positions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP_POSITIONS = 16384
"""Positions that are centered at a time."""


class _ChannelMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        exact = torch.promote_types(x.dtype, torch.float32)
        mean = positions.mean(dim=0, dtype=exact)
        covariance = torch.zeros(x.shape[1], x.shape[1], dtype=exact, device=x.device)
        for strip in positions.split(STRIP_POSITIONS):
            centered = strip - mean
            covariance.addmm_(centered.t(), centered)
        ctx.save_for_backward(x, mean)
        return mean, covariance / len(positions)

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_covariance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        kernel = grad_covariance + grad_covariance.t()
        shift = grad_mean - kernel @ mean
        # Each position gets (kernel · (x − mean) + grad_mean) / P: a 1×1 convolution.
        scaled = [t.to(x.dtype) * (x.shape[1] / x.numel()) for t in (kernel[:, :, None, None], shift)]
        return F.conv2d(x, *scaled)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, h, w) → mean (C,) and covariance (C, C) over the P positions (division by P), at least float32."""
    return _ChannelMoments.apply(x)


def deconvolution_moments(weight: Tensor, bias: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (biased) that each channel of a 2×2 deconvolution of stride 2 has over its output.

    Args:
        weight: (C, D, 2, 2).
        bias: (D,).
        mean: (C,) of the input's channels.
        covariance: (C, C).

    Returns:
        (D,) and (D,).  Of the four pixels that come of a cell each is a linear map of the cell: the variance is the
        mean of their variances plus the variance of their means.
    """
    pixels = weight.flatten(1)
    means = (mean @ pixels).unflatten(0, (-1, 4))
    variances = (pixels * (covariance @ pixels)).sum(dim=0).clamp_min(0.0).unflatten(0, (-1, 4))
    return means.mean(dim=1) + bias, variances.mean(dim=1) + means.var(dim=1, correction=0)
