"""The encoded record as a pseudo-image (paper, equation 1: S = f_spa(Z^C), e layers of deconvolution + convolution).

Shape letters: N records, D width of the encoded record, H×W pixels of the model's input, C its channels.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdf_detectron.modeling.deconv_fast.channel_moments import channel_moments, deconvolution_moments
from mdf_detectron.modeling.deconv_fast.deconvolution import Deconvolution2x2, deconvolve, deconvolve_and_convolve

RECTIFIER_MARGIN = 2.0
"""Bias that the batch norms before a ReLU start with, in standard deviations of their output."""


FEW_CHANNELS = 4
"""Up to so many channels out, the last stage is computed without its large map."""


NORMS = {"BN": nn.BatchNorm2d, "GN": lambda channels: nn.GroupNorm(1, channels)}


class SpatializerStage(nn.Sequential):
    """Deconvolution 2×2 (doubles the side), then convolution 3×3; each with a norm, ReLU between and behind.

    With batch norm the first norm is folded into the deconvolution, in training too (its statistics follow from the
    input's, see ``channel_moments``), and in evaluation the second into the convolution.

    Args:
        norm: "BN", batch norm as in the paper, or "GN", group norm with one group: each record by itself, whatever the
            others of the batch are.
        last: end without ReLU.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int, norm: str = "BN", last: bool = False):
        layers = [
            Deconvolution2x2(in_channels, channels),
            NORMS[norm](channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, out_channels, kernel_size=3, padding=1),
            NORMS[norm](out_channels),
        ]
        super().__init__(*layers, *([] if last else [nn.ReLU(inplace=True)]))
        self.foldable = norm != "GN"
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, 2H, 2W)."""
        if not self.foldable:
            return super().forward(x)
        deconvolution, norm, _, convolution, second_norm, *_ = self
        scale, shift = self._first_norm(x)
        weight, bias = deconvolution.weight * scale[:, None, None], deconvolution.bias * scale + shift
        kernel, kernel_bias = convolution.weight, convolution.bias
        if not self.training:
            scale, shift = _affine(second_norm, second_norm.running_mean, second_norm.running_var)
            kernel, kernel_bias = kernel * scale[:, None, None, None], kernel_bias * scale + shift
        if self.last and convolution.out_channels <= FEW_CHANNELS:
            x = deconvolve_and_convolve(x, weight, bias, kernel, kernel_bias)
        else:
            x = F.conv2d(deconvolve(x, weight, bias, rectify=True), kernel, kernel_bias, padding=1)
        if self.training:
            x = second_norm(x)
        return x if self.last else x.relu_()

    def _first_norm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (channels,), of the norm behind the deconvolution of ``x``."""
        deconvolution, norm = self[0], self[1]
        if not self.training:
            return _affine(norm, norm.running_mean, norm.running_var)
        with torch.autocast(x.device.type, enabled=False):
            mean, variance = deconvolution_moments(deconvolution.weight, deconvolution.bias, *channel_moments(x))
        count = 4 * x.numel() // x.shape[1]
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        return _affine(norm, mean, variance)


def _affine(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, each (channels,), that a batch norm applies with these statistics."""
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


class Spatializer(nn.Module):
    """Z^C (N, D) → S (N, C, H, W).

    Args:
        in_dim: D.
        out_channels: C; the last stage ends without ReLU, so that S is centered like a normalized image.
        num_stages: e ≥ 1; the stages reach 2^e pixels a side (paper: 9 → 512).
        channels: channels between the stages.
        norm: "BN" or "GN", see :class:`SpatializerStage`.
        num_uniform: so many stages, from the first, start as a repetition over the map, see :func:`_start_uniform`:
            the record then makes a pattern of 2^(e − num_uniform) pixels a side, repeated.
        use_checkpoint: recompute the stages in the backward pass.
        channels_last: memory format of the maps; faster where it is measured to be.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_channels: int,
        num_stages: int = 9,
        channels: int = 64,
        norm: str = "BN",
        num_uniform: int = 0,
        use_checkpoint: bool = False,
        channels_last: bool = True,
    ):
        super().__init__()
        if num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, got {num_stages}")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {sorted(NORMS)}, got '{norm}'")
        widths = [in_dim] + [channels] * (num_stages - 1) + [out_channels]
        self.stages = nn.Sequential(
            *(
                SpatializerStage(widths[i], channels, widths[i + 1], norm, last=i == num_stages - 1)
                for i in range(num_stages)
            )
        )
        self.use_checkpoint = use_checkpoint
        self.channels_last = channels_last
        for number, stage in enumerate(self.stages):
            _start_linear(stage, first=number == 0)
            if number < num_uniform:
                _start_uniform(stage)

    def forward(self, encoded: Tensor, size: tuple[int, int]) -> Tensor:
        """Spread each record over a map.

        Args:
            encoded: (N, D).
            size: (H, W); where the stages end at another size, the result is resized bilinearly.

        Returns:
            (N, C, H, W).
        """
        x = encoded[:, :, None, None]
        for number, stage in enumerate(self.stages):
            if number == 1:  # a map of one cell is in both formats at once, the next is in one
                x = x.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                x = checkpoint(stage, x, use_reentrant=False, context_fn=partial(_recomputation, stage))
            else:
                x = stage(x)
        if x.shape[-2:] != tuple(size):
            x = F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
        return x


class _Replay(AbstractContextManager):
    """A stage's forward once more, in the backward pass: with the running statistics that it left, which stay."""

    def __init__(self, stage: SpatializerStage):
        self._norms = [m for m in stage if isinstance(m, nn.BatchNorm2d)]
        self._momenta = [norm.momentum for norm in self._norms]

    def remember(self) -> None:
        """Call after the first forward."""
        self._then = self._statistics()

    def _statistics(self) -> list[Tensor]:
        return [b.clone() for norm in self._norms for b in norm.buffers()]

    def _set(self, statistics: list[Tensor]) -> None:
        for buffer, value in zip((b for norm in self._norms for b in norm.buffers()), statistics, strict=True):
            buffer.copy_(value)

    def __enter__(self) -> None:
        self._now = self._statistics()
        self._set(self._then)
        for norm in self._norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        self._set(self._now)
        for norm, momentum in zip(self._norms, self._momenta, strict=True):
            norm.momentum = momentum


def _recomputation(stage: SpatializerStage) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a stage's forward and of its repetition."""
    first, replay = ExitStack(), _Replay(stage)
    first.callback(replay.remember)
    return first, replay


def _start_linear(stage: SpatializerStage, first: bool) -> None:
    """Keep the variance by the inputs of one output pixel, and let the record through.

    With norms that start at bias 0, a rectifier behind each scrambles the record before anything is learned: behind the
    clinical backbone a linear map of a cell recovers nothing of the vitals (R² below 0).  Started at
    :data:`RECTIFIER_MARGIN` standard deviations above zero the rectifiers hardly cut at first, and the pseudo-image is
    a sum of one pattern a column.  The weights of each output sum to zero over the inputs, so that the margin itself,
    the same for every record, is not carried on: it would soon drown what differs between records.
    """
    deconvolution, norm, _, convolution, second_norm, *_ = stage
    nn.init.normal_(deconvolution.weight, std=deconvolution.in_channels**-0.5)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    with torch.no_grad():
        convolution.weight.sub_(convolution.weight.mean(dim=1, keepdim=True))
        if not first:  # the first stage reads the record itself, which has no margin
            deconvolution.weight.sub_(deconvolution.weight.mean(dim=0, keepdim=True))
    for layer in (deconvolution, convolution):
        nn.init.zeros_(layer.bias)
    nn.init.constant_(norm.bias, RECTIFIER_MARGIN)
    if not stage.last:
        nn.init.constant_(second_norm.bias, RECTIFIER_MARGIN)


def _start_uniform(stage: SpatializerStage) -> None:
    """The four kernel positions of the deconvolution start alike, the 3×3 convolution with its center only.

    What comes in is then repeated over space.  Otherwise each place starts with a code of its own for the same record,
    and the detector has to learn to read every one of them.  Not with batch norm: of a repeated map it sees as many
    values a channel as there are records in the batch, and the record drowns in the noise of their mean.
    """
    deconvolution, convolution = stage[0], stage[3]
    with torch.no_grad():
        deconvolution.weight.copy_(deconvolution.weight[:, :, :1, :1].expand_as(deconvolution.weight))
        center = convolution.weight[:, :, 1, 1].clone() * 3.0  # the variance of nine taps from one
        convolution.weight.zero_()
        convolution.weight[:, :, 1, 1] = center
