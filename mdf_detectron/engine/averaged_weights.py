"""Averaged weights of a training: what it validates, tests and hands on, while the optimizer goes on with its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from mdf_detectron.engine.processes import unwrapped
from mdf_detectron.errors import CheckpointError


@contextmanager
def replaced_weights(weights: Mapping[str, Tensor] | None, model: nn.Module) -> Iterator[None]:
    """Temporarily give an unwrapped model other weights, all of them; restore its own on exit. None changes nothing."""
    if weights is None:
        yield
        return
    before = copy_of(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(before)


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy a model's state dict."""
    return {name: value.clone() for name, value in model.state_dict().items()}


class AverageWeights(HookBase):
    """Keep an exponential moving average of the model's weights and running statistics.

    After iteration t (from 1), average ← average + (1 − d) · (weights − average) with d the smaller of ``decay`` and
    (1 + t) / (10 + t), so that the first, random weights are soon forgotten. Whole numbers are copied.

    A checkpoint's ``model`` is the average, so that every reader of the file gets it; the optimizer's own weights are
    this hook's state in it, and a resumed run takes both up again.

    Args:
        decay: in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] | None = None

    def before_train(self) -> None:
        if self.values is None:
            self.values = copy_of(self._model())

    @torch.no_grad()
    def after_step(self) -> None:
        done = self.trainer.iter + 1
        share = 1 - min(self.decay, (1 + done) / (10 + done))
        for name, value in self._model().state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, share)
            else:
                self.values[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.values is None else {"trained": self._model().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the model's weights, as loaded, for the average; give the model the trained ones."""
        model = self._model()
        self.values = copy_of(model)
        try:
            model.load_state_dict(state["trained"])
        except (KeyError, TypeError, AttributeError, RuntimeError):
            raise CheckpointError(
                "the checkpoint's averaged weights (SOLVER.EMA_DECAY) lack the trained ones, or belong to another "
                "model; start another training from its weights (MODEL.WEIGHTS, another OUTPUT_DIR)"
            ) from None

    def _model(self) -> nn.Module:
        return unwrapped(self.trainer._trainer.model)
