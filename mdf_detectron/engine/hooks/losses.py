"""Losses of a model on held-out data, and the stop at a loss that is not finite."""

from __future__ import annotations

from collections.abc import Iterable
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
from torch import nn

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
    """Checks the losses of every training step before they are used."""

    def before_train(self) -> None:
        self._handle = self.trainer._trainer.model.register_forward_hook(self._check)

    def after_train(self) -> None:
        self._handle.remove()

    def _check(self, model, inputs, outputs) -> None:
        if not isinstance(outputs, dict) or not torch.is_grad_enabled():  # predictions, or validation
            return
        values = torch.stack([v.detach().float().reshape(()) for v in outputs.values()])
        if torch.isfinite(values).all():
            return
        bad = {name: float(v.detach()) for name, v in outputs.items() if not torch.isfinite(v).all()}
        files = [str(x.get("file_name", x.get("image_id"))) for x in inputs[0]]
        raise TrainingDivergedError(
            f"training stopped at iteration {self.trainer.iter}: {bad} of the batch {files}. Look at these images and "
            "records (mdf visualize); if they are sound, lower SOLVER.BASE_LR or switch on "
            "SOLVER.CLIP_GRADIENTS, and go on from the last checkpoint with --resume"
        )
