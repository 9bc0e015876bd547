"""The encoded row as a pseudo-image (paper, equation 1: S = f_spa(Z^C), e layers of deconvolution + convolution).

Shape letters: N rows, D width of the encoded row, H×W pixels of the model's input, C its channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

RECTIFIER_MARGIN = 2.0
"""Bias that the batch norms before a ReLU start with, in standard deviations of their output."""


class Deconvolution2x2(nn.ConvTranspose2d):
    """A 2×2 deconvolution of stride 2, computed as a 1×1 convolution and a shuffle of its pixels.

    With this kernel and stride no two input pixels reach the same output pixel, so the two are the same
    function; the convolution is several times faster on a CPU.  Parameters are ``nn.ConvTranspose2d``'s.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, 2H, 2W)."""
        return deconvolve(x, self.weight, self.bias)


def deconvolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The deconvolution of :class:`Deconvolution2x2`: (N, in, H, W), weight (in, out, 2, 2) → (N, out, 2H, 2W)."""
    in_channels, out_channels = weight.shape[:2]
    # Channels in the order (row, column, out): then the shuffle below moves whole pixels of a channels_last map, and
    # not single numbers, as F.pixel_shuffle with its order (out, row, column) would.
    kernel = weight.permute(2, 3, 1, 0).reshape(4 * out_channels, in_channels, 1, 1)
    parts = F.conv2d(x, kernel, bias.repeat(4))
    n, _, height, width = parts.shape
    pixels = parts.permute(0, 2, 3, 1).reshape(n, height, width, 2, 2, out_channels)
    pixels = pixels.transpose(2, 3).reshape(n, 2 * height, 2 * width, out_channels)
    return pixels.permute(0, 3, 1, 2).contiguous(memory_format=_format_of(x))


def _format_of(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


NORMS = {"BN": nn.BatchNorm2d, "GN": lambda channels: nn.GroupNorm(1, channels)}


class SpatializerStage(nn.Sequential):
    """Deconvolution 2×2 (doubles the side), then convolution 3×3; each with a norm, ReLU between and behind.

    Args:
        norm: "BN", batch norm as in the paper, or "GN", group norm with one group: each row by itself, whatever the
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
        self.foldable = norm == "BN"
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, 2H, 2W); in evaluation batch norms are folded into the convolutions."""
        if self.training or not self.foldable:
            return super().forward(x)
        deconvolution, norm, _, convolution, second_norm, *_ = self
        scale, shift = _affine(norm)
        x = deconvolve(x, deconvolution.weight * scale[:, None, None], deconvolution.bias * scale + shift).relu_()
        scale, shift = _affine(second_norm)
        kernel = convolution.weight * scale[:, None, None, None]
        x = F.conv2d(x, kernel, convolution.bias * scale + shift, padding=1)
        return x if self.last else x.relu_()


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift that a batch norm applies in evaluation, each (channels,)."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


class Spatializer(nn.Module):
    """Z^C (N, D) → S (N, C, H, W).

    Args:
        in_dim: D.
        out_channels: C; the last stage ends without ReLU, so that S is centered like a normalized image.
        num_stages: e ≥ 1; the stages reach 2^e pixels a side (paper: 9 → 512).
        channels: channels between the stages.
        norm: "BN" or "GN", see :class:`SpatializerStage`.
        start_uniform: start as a repetition of the row over the map, see :func:`_start_uniform`.
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
        start_uniform: bool = False,
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
            if start_uniform:
                _start_uniform(stage)

    def forward(self, encoded: Tensor, size: tuple[int, int]) -> Tensor:
        """Spread each row over a map.

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
                x = checkpoint(stage, x, use_reentrant=False)
            else:
                x = stage(x)
        if x.shape[-2:] != tuple(size):
            x = F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
        return x


def _start_linear(stage: SpatializerStage, first: bool) -> None:
    """Keep the variance by the inputs of one output pixel, and let the row through.

    With norms that start at bias 0, a rectifier behind each scrambles the row before anything is learned: behind the
    clinical backbone a linear map of a cell recovers nothing of the vitals (R² below 0).  Started at
    :data:`RECTIFIER_MARGIN` standard deviations above zero the rectifiers hardly cut at first, and the pseudo-image is
    a sum of one pattern a column.  The weights of each output sum to zero over the inputs, so that the margin itself,
    the same for every row, is not carried on: it would soon drown what differs between rows.
    """
    deconvolution, norm, _, convolution, second_norm, *_ = stage
    nn.init.normal_(deconvolution.weight, std=deconvolution.in_channels**-0.5)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    with torch.no_grad():
        convolution.weight.sub_(convolution.weight.mean(dim=1, keepdim=True))
        if not first:  # the first stage reads the row itself, which has no margin
            deconvolution.weight.sub_(deconvolution.weight.mean(dim=0, keepdim=True))
    for layer in (deconvolution, convolution):
        nn.init.zeros_(layer.bias)
    nn.init.constant_(norm.bias, RECTIFIER_MARGIN)
    if not stage.last:
        nn.init.constant_(second_norm.bias, RECTIFIER_MARGIN)


def _start_uniform(stage: SpatializerStage) -> None:
    """The four kernel positions of the deconvolution start alike, the 3×3 convolution with its center only.

    A map is then uniform over space.  Otherwise each place starts with a code of its own for the same row, and the
    detector has to learn to read every one of them.  Not with batch norm: of a uniform map it sees as many values a
    channel as there are rows in the batch, and the row drowns in the noise of their mean.
    """
    deconvolution, convolution = stage[0], stage[3]
    with torch.no_grad():
        deconvolution.weight.copy_(deconvolution.weight[:, :, :1, :1].expand_as(deconvolution.weight))
        center = convolution.weight[:, :, 1, 1].clone() * 3.0  # the variance of nine taps from one
        convolution.weight.zero_()
        convolution.weight[:, :, 1, 1] = center
