"""Spatializer: the encoded record as a pseudo-image (paper, equation 1: S = f_spa(Z^C), e deconvolution stages).

The last maps are large (64 channels of 512×512 pixels) and need little arithmetic: moving and storing them is the cost.

Shape letters: N records, Z width of the encoded record, C channels and H×W pixels of the model's input; of a stage
I channels in, D of the deconvolution, O out, h×w cells in, 2h×2w pixels out.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

RECTIFIER_MARGIN = 2.0
"""Initial bias of norms before a ReLU, in standard deviations of their output."""

FEW_CHANNELS = 4
"""Most output channels for which the last stage runs in strips and never stores its map of D channels."""

STRIP_CELLS = 4096
"""Cells of a strip; few enough for a processor's cache."""

NORMS = {"BN": nn.BatchNorm2d, "GN": lambda channels: nn.GroupNorm(1, channels)}


class SpatializerStage(nn.Sequential):
    """2×2 deconvolution of stride 2, norm, ReLU, 3×3 convolution, norm, ReLU: (N, I, h, w) → (N, O, 2h, 2w).

    With this kernel and stride no two cells reach the same pixel, so the deconvolution is a 1×1 convolution to the four
    pixels of each cell and a shuffle. Batch norm is folded into that convolution, in training too, where its statistics
    follow from mean and covariance of the stage's input.

    Args:
        norm: "BN", batch norm as in the paper, or "GN", group norm with one group, which treats each record by itself.
        last: end without ReLU.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int, norm: str = "BN", last: bool = False):
        layers = [
            nn.ConvTranspose2d(in_channels, channels, kernel_size=2, stride=2),
            NORMS[norm](channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, out_channels, kernel_size=3, padding=1),
            NORMS[norm](out_channels),
        ]
        super().__init__(*layers, *([] if last else [nn.ReLU(inplace=True)]))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        deconvolution, norm, relu, convolution, *rest = self
        weight, bias = deconvolution.weight, deconvolution.bias
        if isinstance(norm, nn.BatchNorm2d):
            mean, variance = self._statistics(x) if self.training else (norm.running_mean, norm.running_var)
            scale = norm.weight * (variance + norm.eps).rsqrt()
            weight, bias, norm = weight * scale[:, None, None], (bias - mean) * scale + norm.bias, nn.Identity()
        # in the order (row, column, D) the four pixels of a cell are adjacent in channels_last memory
        kernel, bias = weight.permute(2, 3, 1, 0).flatten(0, 2)[:, :, None, None], bias.repeat(4)
        if self.last and convolution.out_channels <= FEW_CHANNELS and isinstance(norm, nn.Identity):
            x = _convolve_in_strips(x, kernel, bias, convolution)
        else:
            x = convolution(_shuffle(relu(norm(_as_row(F.conv2d(x, kernel, bias))))))
        for layer in rest:
            x = layer(x)
        return x

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute batch mean and variance (D,) of the deconvolution of ``x``; update the running statistics."""
        deconvolution, norm = self[0], self[1]
        with torch.autocast(x.device.type, enabled=False):
            values = x.permute(0, 2, 3, 1).flatten(0, 2).to(norm.weight.dtype)
            mean = values.mean(dim=0)
            centered = values - mean
            covariance = centered.t() @ centered / len(values)
            pixels = deconvolution.weight.flatten(1)  # (I, 4·D): each pixel of a cell is a linear map of the cell
            means = (mean @ pixels).unflatten(0, (-1, 4))
            variances = (pixels * (covariance @ pixels)).sum(dim=0).unflatten(0, (-1, 4))
            mean = means.mean(dim=1) + deconvolution.bias
            variance = variances.mean(dim=1) + means.var(dim=1, correction=0)
        count = 4 * len(values)
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        return mean, variance


def _as_row(cells: Tensor) -> Tensor:
    """View (N, 4·D, h, w) as (N, D, h, 4·w), the pixels of a cell next to each other."""
    n, _, height, width = cells.shape
    return cells.permute(0, 2, 3, 1).reshape(n, height, 4 * width, -1).permute(0, 3, 1, 2)


def _shuffle(row: Tensor) -> Tensor:
    """Move each pixel of :func:`_as_row` to its place: (N, D, h, 4·w) → (N, D, 2h, 2w)."""
    n, channels, height, width = row.shape
    pixels = row.permute(0, 2, 3, 1).reshape(n, height, width // 4, 2, 2, channels).transpose(2, 3)
    return pixels.reshape(n, 2 * height, width // 2, channels).permute(0, 3, 1, 2)


def _convolve_in_strips(x: Tensor, kernel: Tensor, bias: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Compute 3×3 convolution(ReLU(deconvolution of ``x``)), (N, I, h, w) → (N, O, 2h, 2w).

    The products of each pixel with each tap, 9·O numbers, need no neighbors: they are computed strip by strip, and
    again in the backward pass. A second convolution sums them at their places.
    """
    out_channels, channels = convolution.weight.shape[:2]
    taps = convolution.weight.permute(2, 3, 0, 1).reshape(9 * out_channels, channels, 1, 1)
    strips = [x] if torch.jit.is_tracing() else x.split(max(1, STRIP_CELLS // (len(x) * x.shape[3])), dim=2)
    project = partial(_products, kernel=kernel, bias=bias, taps=taps)
    if torch.is_grad_enabled():
        project = partial(checkpoint, project, use_reentrant=False, preserve_rng_state=False)
    products = torch.cat([project(strip) for strip in strips], dim=2)
    places = torch.eye(9 * out_channels, dtype=products.dtype, device=products.device)
    places = places.reshape(3, 3, out_channels, 9 * out_channels).permute(2, 3, 0, 1)
    return F.conv2d(_shuffle(products), places, convolution.bias, padding=1)


def _products(strip: Tensor, kernel: Tensor, bias: Tensor, taps: Tensor) -> Tensor:
    return F.conv2d(_as_row(F.conv2d(strip, kernel, bias).relu_()), taps)


class Spatializer(nn.Module):
    """Spread each encoded record over a pseudo-image: Z^C (N, Z) → S (N, C, H, W).

    Args:
        in_dim: Z.
        out_channels: C; the last stage ends without ReLU, so that S is centered like a normalized image.
        num_stages: e ≥ 1; the stages reach 2^e pixels per side (paper: 9 → 512).
        channels: between the stages.
        norm: "BN" or "GN", see :class:`SpatializerStage`.
        num_uniform: number of first stages that start as a repetition over the map, see :func:`_start_uniform`: the
            record then makes a repeated pattern of 2^(e − num_uniform) pixels per side.
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
        for number, stage in enumerate(self.stages):
            _start_linear(stage, first=number == 0)
            if number < num_uniform:
                _start_uniform(stage)

    def forward(self, encoded: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute S for ``size`` (H, W); where the stages end at another size, S is resized bilinearly."""
        x = self.stages(encoded[:, :, None, None])
        if torch.jit.is_tracing() or x.shape[-2:] != tuple(size):
            x = F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
        return x


def _start_linear(stage: SpatializerStage, first: bool) -> None:
    """Initialize a stage to keep the variance and to pass the record on nearly linearly.

    With norms that start at bias 0, the ReLUs scramble the record before anything is learned: no linear map of a cell
    of the clinical backbone's output recovers the vitals (R² below 0). Started :data:`RECTIFIER_MARGIN` standard
    deviations above zero, they hardly cut, and the pseudo-image is a sum of one pattern per column. The weights of each
    output sum to zero over the inputs, so that the margin, the same for every record, is not passed on: it would soon
    drown what differs between records.
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
    """Initialize a stage to repeat its input over space: equal deconvolution taps, a center-only 3×3 convolution.

    Otherwise each place starts with its own code for the same record, and the detector has to learn every one. Not for
    batch norm: of a repeated map it sees only one value per record and channel, and the record drowns in the noise of
    their mean.
    """
    deconvolution, convolution = stage[0], stage[3]
    with torch.no_grad():
        deconvolution.weight.copy_(deconvolution.weight[:, :, :1, :1].expand_as(deconvolution.weight))
        center = convolution.weight[:, :, 1, 1].clone() * 3.0  # the variance of nine taps from one
        convolution.weight.zero_()
        convolution.weight[:, :, 1, 1] = center
