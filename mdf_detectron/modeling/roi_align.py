"""RoIAlign as two matrix products, for CPUs, where torchvision's backward pass runs on one thread.

With a fixed number of samples per bin, RoIAlign is separable: the bins of a region are ``W_y · F · W_xᵀ``, with the
mean weights of bilinear interpolation along each axis. Values and gradients equal torchvision's up to rounding.

Shape letters: N images, D channels, H×W cells of a feature map, R RoIs, P bins per side, S samples per bin and axis.
"""

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn

MOST_CELLS = 64 * 64
"""Largest feature map, in cells, for which products are faster than sampling: they touch every cell."""
MOST_NUMBERS = 2**24
"""Elements of the largest intermediate tensor; more RoIs are processed in parts."""


def axis_weights(low: Tensor, high: Tensor, bins: int, samples: int, cells: int) -> Tensor:
    """Compute the weight of each cell along one axis (H or W ``cells``) in each bin of each RoI.

    torchvision's rules: a sample more than one cell outside the map counts as 0, a closer one is clamped. ``low`` and
    ``high``, (R,), are the RoIs' ends in cells; the result is (R, P, cells) of their dtype.
    """
    step = (torch.arange(bins * samples, device=low.device, dtype=low.dtype) + 0.5) / (bins * samples)
    at = low[:, None] + step * (high - low)[:, None]
    inside = (at >= -1.0) & (at <= cells)
    at = at.clamp(0.0, cells - 1.0)
    distance = (at[..., None] - torch.arange(cells, device=low.device, dtype=low.dtype)).abs()
    weights = (1.0 - distance).clamp_min(0.0) * inside[..., None]
    return weights.unflatten(1, (bins, samples)).mean(dim=2)


def separable_roi_align(
    features: Tensor, rois: Tensor, bins: int, spatial_scale: float, samples: int, aligned: bool = True
) -> Tensor:
    """Pool RoIs as ``torchvision.ops.roi_align`` does with a fixed number of samples.

    Args:
        features: (N, D, H, W).
        rois: (R, 5): image index, then x0, y0, x1, y1 in pixels.
        spatial_scale: cells per pixel.
        aligned: shift by half a cell (``ROIAlignV2``); without it, RoIs have at least one cell per side.

    Returns:
        (R, D, P, P); the gradient flows to ``features`` only, as in torchvision.

    Raises:
        ValueError: ``samples`` is below 1, in torchvision a number that adapts to the RoI.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; an adaptive number is not separable")
    count, channels, height, width = features.shape
    with torch.no_grad():
        ends = rois[:, 1:].to(features.dtype) * spatial_scale - (0.5 if aligned else 0.0)
        low, high = ends[:, :2], ends[:, 2:]
        if not aligned:
            high = torch.maximum(high, low + 1.0)
        weights_x = axis_weights(low[:, 0], high[:, 0], bins, samples, width)
        weights_y = axis_weights(low[:, 1], high[:, 1], bins, samples, height)
        image = rois[:, 0].long()
        order = image.argsort(stable=True)
        sizes = image.bincount(minlength=count).tolist()
    part = max(1, MOST_NUMBERS // max(1, bins * width * channels))
    pooled = []
    for number, indices in enumerate(order.split(sizes)):
        cells = features[number].permute(1, 2, 0).reshape(height, width * channels)
        for chosen in indices.split(part):
            rows = (weights_y[chosen].flatten(0, 1) @ cells).view(len(chosen), bins, width, channels)
            pooled.append(weights_x[chosen][:, None] @ rows)
    if not pooled or not len(rois):
        return features.new_zeros(0, channels, bins, bins) + 0.0 * features.sum()
    return torch.cat(pooled)[order.argsort()].permute(0, 3, 1, 2)


class SeparableROIAlign(ROIAlign):
    """Detectron2's ``ROIAlign`` with :func:`separable_roi_align` where that is faster."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """(N, D, H, W), (R, 5) → (R, D, P, P)."""
        bins, other = self.output_size
        small = input.shape[2] * input.shape[3] <= MOST_CELLS
        products = small and self.sampling_ratio >= 1 and bins == other and input.device.type == "cpu"
        if not products or torch.jit.is_tracing():  # a trace would fix the number of regions
            return super().forward(input, rois)
        return separable_roi_align(input, rois, bins, self.spatial_scale, self.sampling_ratio, self.aligned)


def use_separable_roi_align(module: nn.Module) -> nn.Module:
    """Replace every ``ROIAlign`` of the poolers in ``module``, in place, and return it."""
    for pooler in module.modules():
        if isinstance(pooler, ROIPooler):
            for number, level in enumerate(pooler.level_poolers):
                if type(level) is ROIAlign:
                    pooler.level_poolers[number] = SeparableROIAlign(
                        level.output_size, level.spatial_scale, level.sampling_ratio, level.aligned
                    )
    return module
