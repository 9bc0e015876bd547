"""Losses of a model on held-out data, and the stop at a loss that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager

import torch
from detectron2.engine import HookBase
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from mdf_detectron.errors import TrainingDivergedError

_GIVE_LOSSES = (GeneralizedRCNN, DenseDetector, RPN, ROIHeads, BaseMaskRCNNHead)
"""Parts whose ``training`` flag decides between losses and predictions."""


RUNNING_STATE = ("loss_normalizer",)
"""Plain attributes that a model moves on with every loss it gives (RetinaNet's running number of positive anchors)."""


@contextmanager
def giving_losses(model: nn.Module):
    """The model gives losses, while batch norm, dropout and everything else behave as at inference."""
    was_training = {module: module.training for module in model.modules()}
    state = {key: vars(model)[key] for key in RUNNING_STATE if key in vars(model)}
    model.eval()
    for module in model.modules():
        if isinstance(module, _GIVE_LOSSES):
            module.training = True
    try:
        yield
    finally:
        for module, flag in was_training.items():
            module.training = flag
        vars(model).update(state)


def mean_losses(model: nn.Module, loader: Iterable[list[dict]], seed: int = 0) -> dict[str, float]:
    """Mean of each loss over the images of a loader, without gradients, on all processes.

    The sampling of proposals follows ``seed``, so that two calls with the same weights agree, and training's own
    random numbers stay as they are.

    Returns:
        the model's losses (weighted), ``total_loss`` (their sum) and, from a weighting meta-architecture, the plain
        ones as ``raw/<name>``; empty for an empty loader.
    """
    model = getattr(model, "module", model)
    sums: dict[str, float] = {}
    images = 0
    with torch.random.fork_rng(), torch.no_grad(), giving_losses(model):
        torch.manual_seed(seed)
        for batch in loader:
            with EventStorage() as storage:
                losses = {name: float(value) for name, value in model(batch).items()}
                raw = {n: v[0] for n, v in storage.latest().items() if n.startswith("raw/")}
            losses["total_loss"] = sum(losses.values())
            for name, value in {**losses, **raw}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
            images += len(batch)
    gathered = comm.all_gather((sums, images))
    total = sum(count for _, count in gathered)
    names = {name: None for part, _ in gathered for name in part}
    return {name: sum(part.get(name, 0.0) for part, _ in gathered) / total for name in names}


class FiniteLosses(HookBase):
    """Checks the losses of every training step before the optimizer uses their gradients.

    They are read behind the backward pass, where Detectron2's log waits for the GPU anyway: reading them between the
    passes would leave the GPU idle until the first kernels of the backward pass arrive.
    """

    def __init__(self) -> None:
        self._losses: dict[str, Tensor] = {}
        self._batch: list[dict] = []

    def before_train(self) -> None:
        loop = self.trainer._trainer
        self._handle = loop.model.register_forward_hook(self._keep)
        self._behind_backward = _BehindBackward(self._check)
        loop.register_hooks([self._behind_backward])  # Detectron2 calls after_backward of the loop's own hooks only

    def after_train(self) -> None:
        self._handle.remove()
        self.trainer._trainer._hooks.remove(self._behind_backward)

    def _keep(self, model, inputs, outputs) -> None:
        if isinstance(outputs, dict) and torch.is_grad_enabled():  # else predictions, or validation
            self._losses, self._batch = {name: value.detach() for name, value in outputs.items()}, inputs[0]

    def _check(self) -> None:
        losses, batch, self._losses, self._batch = self._losses, self._batch, {}, []
        if not losses or torch.isfinite(torch.stack([v.float().reshape(()) for v in losses.values()])).all():
            return
        bad = {name: float(v) for name, v in losses.items() if not torch.isfinite(v).all()}
        files = [str(x.get("file_name", x.get("image_id"))) for x in batch]
        raise TrainingDivergedError(
            f"training stopped at iteration {self.trainer.iter}: {bad} of the batch {files}. Look at these images and "
            "records (mdf visualize); if they are sound, lower SOLVER.BASE_LR or switch on "
            "SOLVER.CLIP_GRADIENTS, and go on from the last checkpoint with --resume"
        )


class _BehindBackward(HookBase):
    """Call a function between the backward pass and the optimizer's step."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def after_backward(self) -> None:
        self._call()
