"""Batch renormalization (Ioffe 2017): batch norm for batches that are too small for statistics of their own.

The clinical branch sees as many different inputs as there are records in the batch, four in the paper.  Normalized by
their own mean, what a record becomes depends on the three others, layer after layer; at inference the same record
becomes something else.  Here the running statistics normalize in training too.  At inference it is batch norm.

Shape letters: N maps, C channels, h×w cells.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import BatchNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mdf_detectron.errors import ConfigError


@torch.library.custom_op(
    "mdf_detectron::move_statistics", mutates_args=("running_mean", "running_var", "num_batches_tracked")
)
def move_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Move running statistics towards those of a batch of ``count`` values a channel, and return copies of them.

    With a momentum of 0 they stay as they are.  An operator of its own, because a compiled backward pass would compute
    plain operations once more, from the statistics that they have already moved.
    """
    if momentum > 0.0:
        share = (1.0 / (num_batches_tracked + 2.0)).clamp_min(momentum)
        num_batches_tracked += 1
        running_mean.lerp_(mean, share)
        running_var.lerp_(variance * (count / max(count - 1, 1)), share)
    return running_mean.clone(), running_var.clone()


@move_statistics.register_fake
def _(running_mean: Tensor, running_var: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(running_mean), torch.empty_like(running_var)


class BatchRenorm2d(nn.BatchNorm2d):
    """y = (x̂·r + d)·γ + β with x̂ normalized by the batch, and r, d, taken as constants, that make running statistics
    of the batch's (equations 4 to 6 there).

    r and d are not clipped; instead the running statistics start as the mean over the first batches and one of mean 0
    and variance 1, so that no batch is divided by its own vanishing variance.  Parameters and buffers are
    ``nn.BatchNorm2d``'s, and so is :meth:`forward` in evaluation.  Processes of a distributed training have running
    statistics of their own, as with batch norm.  Two values a channel, as two records make over a uniform map, are
    always normalized to ±1 and pass no gradient on: a process needs four records or more.
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
        scale, shift = self.affine_of(mean, variance, x.numel() // x.shape[1])
        # x·scale + shift in terms of x̂ = (x − mean)·inverse
        return _Renormalization.apply(x, scale / inverse, shift + scale * mean, normalized, mean, inverse)

    def affine_of(self, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (C,), of x, for a batch of these statistics, which move the running ones first.

        By value they are the running statistics' alone; the gradient is that of batch norm.

        Args:
            mean: (C,).
            variance: (C,), biased.
            count: values a channel.
        """
        running_mean, running_var = move_statistics(
            self.running_mean, self.running_var, self.num_batches_tracked, mean.detach(), variance.detach(),
            self.momentum, count,
        )  # fmt: skip
        inverse = (running_var + self.eps).rsqrt()
        std = (variance + self.eps).sqrt()
        ratio = std.detach() / std
        scale = self.weight * inverse
        return scale * ratio, self.bias + scale * (mean.detach() - running_mean - mean * ratio)


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
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse = ctx.saved_tensors
        all_three = [True, True, True]
        gradients = torch.ops.aten.native_batch_norm_backward(
            grad_out.to(x.dtype), x, scale, None, None, mean, inverse, True, 0.0, all_three
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
    """Replace every batch norm within ``module``, which is changed and returned; other norms stay.

    Weights are kept, running statistics start anew: they are of other inputs.

    Raises:
        ConfigError: a batch norm of another kind, synchronized over processes, say.
    """
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, _renormed(child))
        else:
            with_batch_renorm(child)
    return module


def _renormed(norm: _BatchNorm) -> BatchRenorm2d:
    from timm.layers import BatchNormAct2d  # slow to import

    known = isinstance(norm, BatchNormAct2d) or type(norm) in (nn.BatchNorm2d, BatchNorm2d)
    if not known or not norm.affine or norm.momentum is None:
        raise ConfigError(
            f"MODEL.CLINICAL.BATCH_RENORM does not know how to replace {norm} in the clinical backbone: choose plain "
            "batch norm (of Detectron2's ResNets MODEL.RESNETS.NORM BN), or set BATCH_RENORM False"
        )
    options = {"eps": norm.eps, "momentum": norm.momentum}
    if isinstance(norm, BatchNormAct2d):
        new: BatchRenorm2d = BatchRenormAct2d(norm.num_features, act=norm.act, drop=norm.drop, **options)
    else:
        new = BatchRenorm2d(norm.num_features, **options)
    new.load_state_dict(norm.state_dict())
    new.reset_running_stats()
    return new
