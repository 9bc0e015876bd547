"""A 2×2 deconvolution, batch norm and ReLU as one pass over the map, and the 3×3 convolution behind it.

The spatializer's last maps are large (64 channels of 512×512 pixels), its arithmetic is small: what it costs is moving
and storing them.  Everything here computes what torch's own modules compute, with less of both.

Shape letters: N maps, I channels in, D channels of the deconvolution, O channels out, h×w cells in, 2h×2w cells out.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIP_CELLS = {"cpu": 4096, "cuda": 65536}
"""Input cells that are carried through a stage at a time: few enough for a CPU's cache, enough to fill a GPU."""


class Deconvolution2x2(nn.ConvTranspose2d):
    """A 2×2 deconvolution of stride 2, computed as a 1×1 convolution and a shuffle of its pixels.

    With this kernel and stride no two input pixels reach the same output pixel, so the two are the same
    function; the convolution is several times faster on a CPU.  Parameters are ``nn.ConvTranspose2d``'s.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, h, w) → (N, D, 2h, 2w)."""
        return deconvolve(x, self.weight, self.bias)


def deconvolve(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool = False) -> Tensor:
    """The deconvolution of :class:`Deconvolution2x2`, then ReLU where ``rectify``.

    Args:
        x: (N, I, h, w).
        weight: (I, D, 2, 2).
        bias: (D,).

    Returns:
        (N, D, 2h, 2w) in the memory format of ``x``.
    """
    parts = F.conv2d(x, *_as_convolution(weight, bias))
    out = _shuffle(parts, weight.shape[1]).contiguous(memory_format=format_of(x))
    return out.relu_() if rectify else out


def _as_convolution(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel (4D, I, 1, 1) and bias (4D,) of the 1×1 convolution.

    Channels come in the order (row, column, D): then the shuffle moves whole pixels of a channels_last map, and not
    single numbers, as ``F.pixel_shuffle`` with its order (D, row, column) would.
    """
    in_channels, channels = weight.shape[:2]
    return weight.permute(2, 3, 1, 0).reshape(4 * channels, in_channels, 1, 1), bias.repeat(4)


def _shuffle(parts: Tensor, channels: int) -> Tensor:
    """(N, 4·channels, h, w) → (N, channels, 2h, 2w), channels_last."""
    n, _, height, width = parts.shape
    pixels = parts.permute(0, 2, 3, 1).reshape(n, height, width, 2, 2, channels)
    return pixels.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def format_of(x: Tensor) -> torch.memory_format:
    """The memory format of a map; channels_last where it could be either."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def deconvolve_and_convolve(x: Tensor, weight: Tensor, bias: Tensor, kernel: Tensor, kernel_bias: Tensor) -> Tensor:
    """A 3×3 convolution of the rectified deconvolution, for few channels out: the large map between is never stored.

    A 3×3 convolution with few outputs is a projection of every pixel to its 9·O products and a sum of shifted
    products; the projection needs no neighbors, so that strips of the input can go through it one by one, and again in
    the backward pass.

    Args:
        x: (N, I, h, w).
        weight: (I, D, 2, 2) of the deconvolution.
        bias: (D,).
        kernel: (O, D, 3, 3) of the convolution, which pads with one zero.
        kernel_bias: (O,).

    Returns:
        (N, O, 2h, 2w) in the memory format of ``x``.
    """
    out_channels, channels = kernel.shape[:2]
    operands = [x, *_as_convolution(weight, bias), kernel.permute(2, 3, 0, 1).reshape(9 * out_channels, channels, 1, 1)]
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    out = convolve_by_strips(*(operand.to(dtype) for operand in operands)) + kernel_bias.to(dtype)[:, None, None]
    return out.contiguous(memory_format=format_of(x))


@torch.library.custom_op("mdf_detectron::convolve_by_strips", mutates_args=())
def convolve_by_strips(x: Tensor, weight: Tensor, bias: Tensor, projection: Tensor) -> Tensor:
    """:func:`deconvolve_and_convolve` without the last bias, as one operator: torch.compile takes it as it is.

    Args:
        x: (N, I, h, w).
        weight: (4D, I, 1, 1).
        bias: (4D,).
        projection: (9·O, D, 1, 1).

    Returns:
        (N, O, 2h, 2w).
    """
    out = x.new_empty(_output_shape(x, projection))
    for image, out_image in zip(_images(x), out.split(1) if len(x) else (), strict=True):
        products = [_project(_rectified(strip, weight, bias), projection) for strip in _strips(image)]
        out_image.copy_(_sum_of_taps(torch.cat(products, dim=-2)))
    return out


@convolve_by_strips.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, projection: Tensor) -> Tensor:
    return x.new_empty(_output_shape(x, projection))


@torch.library.custom_op("mdf_detectron::convolve_by_strips_backward", mutates_args=())
def _backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, projection: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and projection; each strip is computed again on the way."""
    unshift = _shift_kernel(projection).transpose(0, 1).flip(2, 3)
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    exact = torch.promote_types(x.dtype, torch.float32)  # many small parts add up
    grad_weight, grad_bias, grad_projection = (torch.zeros_like(t, dtype=exact) for t in (weight, bias, projection))
    for image, grad_image, grad_map in zip(_images(x), _images(grad_x), _images(grad_out), strict=True):
        grad_products = _unshuffle(F.conv2d(grad_map, unshift, padding=1))
        for strip, grad_strip, grad_product in zip(
            _strips(image), _strips(grad_image), _strips(grad_products), strict=True
        ):
            pixels = _as_pixels(_rectified(strip, weight, bias))
            grad_pixels, part, _ = _convolution_gradients(_as_pixels(grad_product), pixels, projection)
            grad_projection += part
            torch.ops.aten.threshold_backward.grad_input(grad_pixels, pixels, 0.0, grad_input=grad_pixels)
            grad_input, part, grad_constant = _convolution_gradients(_as_cells(grad_pixels), strip, weight)
            grad_strip.copy_(grad_input)
            grad_weight += part
            grad_bias += grad_constant
    return grad_x, *(total.to(x.dtype) for total in (grad_weight, grad_bias, grad_projection))


@_backward.register_fake
def _(grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, projection: Tensor) -> tuple[Tensor, ...]:
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    return grad_x, *(torch.empty_like(operand) for operand in (weight, bias, projection))


def _remember(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


convolve_by_strips.register_autograd(
    lambda ctx, grad_out: _backward(grad_out, *ctx.saved_tensors), setup_context=_remember
)


def _output_shape(x: Tensor, projection: Tensor) -> tuple[int, int, int, int]:
    return x.shape[0], projection.shape[0] // 9, 2 * x.shape[2], 2 * x.shape[3]


def _images(x: Tensor) -> tuple[Tensor, ...]:
    return x.contiguous(memory_format=torch.channels_last).split(1) if len(x) else ()


def _strips(x: Tensor) -> tuple[Tensor, ...]:
    cells = STRIP_CELLS.get(x.device.type, STRIP_CELLS["cuda"])
    return x.split(max(1, cells // x.shape[3]), dim=2)


def _rectified(strip: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(1, I, r, w) → (1, 4D, r, w): the four pixels of each cell one behind the other."""
    return F.conv2d(strip, weight, bias).relu_()


def _project(parts: Tensor, projection: Tensor) -> Tensor:
    """(1, 4D, r, w) → (2, 2, 9·O, r, w): the products of each of a cell's pixels (row, column), a plane for each.

    Nine numbers beside one another in memory are the worst a matrix product can be asked for: as planes they take a
    sixth of the time.
    """
    _, _, rows, width = parts.shape
    pixels = parts.permute(0, 2, 3, 1).reshape(rows * width, 4, -1)
    planes = [projection.flatten(1) @ pixels[:, number].transpose(0, 1) for number in range(4)]
    return torch.stack(planes).reshape(2, 2, -1, rows, width)


def _sum_of_taps(products: Tensor) -> Tensor:
    """(2, 2, 9·O, h, w) of :func:`_project` → (1, O, 2h, 2w): the sum of the product of each tap at the tap's place."""
    height, width = products.shape[-2:]
    products = products.reshape(2, 2, 3, 3, -1, height, width)
    exact = torch.promote_types(products.dtype, torch.float32)
    out = products.new_zeros(2, 2, products.shape[4], height, width, dtype=exact)
    for row, column, down, right in product(range(2), range(2), range(3), range(3)):
        # of the pixel beside, above or below: of the same cell, or of the next one on that side
        (dy, from_row), (dx, from_column) = divmod(row + down - 1, 2), divmod(column + right - 1, 2)
        source = products[from_row, from_column, down, right]
        out[row, column, :, max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)] += source[
            :, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)
        ]
    return out.permute(2, 3, 0, 4, 1).reshape(1, -1, 2 * height, 2 * width)


def _as_pixels(parts: Tensor) -> Tensor:
    """(1, 4C, r, w) → (1, C, r, 4w): the four pixels of a cell as four cells side by side, which they are in memory."""
    _, _, rows, width = parts.shape
    return parts.permute(0, 2, 3, 1).reshape(1, rows, 4 * width, -1).permute(0, 3, 1, 2)


def _as_cells(pixels: Tensor) -> Tensor:
    """The inverse of :func:`_as_pixels`."""
    _, _, rows, width = pixels.shape
    return pixels.permute(0, 2, 3, 1).reshape(1, rows, width // 4, -1).permute(0, 3, 1, 2)


def _unshuffle(pixels: Tensor) -> Tensor:
    """The inverse of :func:`_shuffle`: (N, C, 2h, 2w) → (N, 4C, h, w), channels_last."""
    n, channels, height, width = pixels.shape
    cells = pixels.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 2, channels)
    return cells.transpose(2, 3).reshape(n, height // 2, width // 2, 4 * channels).permute(0, 3, 1, 2)


def _convolution_gradients(grad_out: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the weight and the bias of a 1×1 convolution."""
    sides = [weight.shape[0]], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True]
    return torch.ops.aten.convolution_backward(grad_out, x, weight, *sides)


def _shift_kernel(projection: Tensor) -> Tensor:
    """Kernel (O, 9·O, 3, 3) that sums, for each output, the product of each tap at the tap's place."""
    identity = torch.eye(len(projection), dtype=projection.dtype, device=projection.device)
    return identity.reshape(3, 3, -1, len(projection)).permute(2, 3, 0, 1).contiguous()
