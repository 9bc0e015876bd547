"""Batch renormalization (Ioffe 2017): batch norm for batches that are too small for statistics of their own.

The clinical branch sees as many different inputs as there are rows in the batch, four in the paper.  Normalized by
their own mean, what a row becomes depends on the three others, layer after layer; at inference the same row becomes
something else.  Here the running statistics normalize in training too.  At inference it is batch norm.

Shape letters: N maps, C channels, h×w cells.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import BatchNorm2d
from timm.layers import BatchNormAct2d
from torch import Tensor, nn


class BatchRenorm2d(nn.BatchNorm2d):
    """y = (x̂·r + d)·γ + β with x̂ normalized by the batch, and r, d, taken as constants, that make running statistics
    of the batch's (equations 4 to 6 there).

    r and d are not clipped: the running statistics start as the mean over the first batches, so that the first step is
    batch norm's.  Parameters and buffers are ``nn.BatchNorm2d``'s, and so is :meth:`forward` in evaluation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) → (N, C, h, w)."""
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            neutral = torch.ones_like(self.weight), torch.zeros_like(self.bias)
            normalized, *statistics = torch.native_batch_norm(x, *neutral, None, None, True, 0.0, self.eps)
            mean, inverse = (s.to(self.weight.dtype) for s in statistics)
        variance = inverse.square().reciprocal() - self.eps
        self.track(mean, variance, x.numel() // x.shape[1])
        scale, shift = self.affine_of(mean, variance)
        # x·scale + shift in terms of x̂ = (x − mean)·inverse
        return _Renormalization.apply(x, scale / inverse, shift + scale * mean, normalized, mean, inverse)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards a batch's (each (C,), variance biased, over ``count`` values)."""
        if self.momentum == 0.0:
            return
        share = (1.0 / (self.num_batches_tracked + 1.0)).clamp_min(self.momentum)
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)

    def affine_of(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (C,), of x, for a batch of these statistics.

        By value they are the running statistics' alone; the gradient is that of batch norm.
        """
        inverse = (self.running_var + self.eps).rsqrt()
        std = (variance + self.eps).sqrt()
        ratio = std.detach() / std
        return self.weight * inverse * ratio, self.bias + self.weight * inverse * (
            mean.detach() - self.running_mean - mean * ratio
        )


class _Renormalization(torch.autograd.Function):
    """x̂·scale + shift, with the gradient of x̂ = (x − mean)·inverse through the batch's mean and deviation."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, normalized: Tensor, mean: Tensor, inverse: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, scale, mean, inverse)
        view = 1, -1, 1, 1
        return torch.addcmul(shift.view(view).to(x.dtype), normalized, scale.view(view).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse = ctx.saved_tensors
        all_three = [True, True, True]
        gradients = torch.ops.aten.native_batch_norm_backward(
            of_out.to(x.dtype), x, scale, None, None, mean, inverse, True, 0.0, all_three
        )
        return *gradients, None, None, None


class BatchRenormAct2d(BatchRenorm2d):
    """The counterpart of timm's ``BatchNormAct2d``: a norm with an activation behind it.

    Args:
        act: the activation.
        drop: what lies between.
    """

    def __init__(self, num_features: int, *, act: nn.Module, drop: nn.Module, **options: Any):
        super().__init__(num_features, **options)
        self.drop, self.act = drop, act

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) → (N, C, h, w)."""
        return self.act(self.drop(super().forward(x)))


def with_batch_renorm(module: nn.Module) -> nn.Module:
    """Replace every batch norm within ``module``, which is changed and returned; other norms stay."""
    for name, child in module.named_children():
        options = {"eps": getattr(child, "eps", None), "momentum": getattr(child, "momentum", None)}
        if isinstance(child, BatchNormAct2d):
            new = BatchRenormAct2d(child.num_features, act=child.act, drop=child.drop, **options)
        elif type(child) in (nn.BatchNorm2d, BatchNorm2d):
            new = BatchRenorm2d(child.num_features, **options)
        else:
            with_batch_renorm(child)
            continue
        new.load_state_dict(child.state_dict())
        setattr(module, name, new)
    return module
