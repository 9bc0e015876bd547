"""Hooks of a training (seeds, running state, log history, finite losses, averaged weights), and its log writers."""

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mdf_detectron.data.loaders import derive_seed, seed_everything
from mdf_detectron.engine.processes import average, unwrapped
from mdf_detectron.errors import CheckpointError, TrainingDivergedError
from mdf_detectron.fileio import write_errors

RUNNING_STATE = ("loss_normalizer",)
"""Plain attributes that a model updates with every loss (RetinaNet's running number of positive anchors)."""


class SeedIterations(HookBase):
    """Seed all generators before each step from the training's seed, iteration and rank.

    Whatever happens between two steps (validation, a restart) cannot change what the next one samples.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        seed_everything(derive_seed(self.seed, self.trainer.iter, comm.get_rank(), 0))


class ModelRunningState(HookBase):
    """Save the model's :data:`RUNNING_STATE` in the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        own = vars(unwrapped(self.trainer._trainer.model))
        return {name: float(own[name]) for name in RUNNING_STATE if name in own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = vars(unwrapped(self.trainer._trainer.model))
        own.update({name: value for name, value in state.items() if name in RUNNING_STATE})


class ScalarHistory(HookBase):
    """Save the last scalars in the checkpoint, so that a resumed run's logs continue as if it had never stopped.

    Writers smooth over a window, and hold back what was logged between two writes.
    """

    _WINDOW = 20  # iterations over which the writers smooth
    _TIMES = ("time", "data_time", "rank_data_time", "eta_seconds")  # valid only in the process that measured them

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        storage = getattr(self.trainer, "storage", None)
        if storage is None:  # before the first iteration
            return self._loaded
        hints = storage.smoothing_hints()
        return {
            name: {"smooth": hints[name], "values": self._recent(storage.history(name).values(), hints[name])}
            for name in storage.latest()
            if name not in self._TIMES
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loaded = state

    def before_train(self) -> None:
        for name, entry in self._loaded.items():
            for value, iteration in entry["values"]:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=entry["smooth"], cur_iter=iteration)

    def _recent(self, values: list[tuple[float, int]], smooth: bool) -> list[list[float]]:
        since = values[-1][1] - self._WINDOW if smooth else values[-1][1] - 1
        recent = [list(value) for value in itertools.takewhile(lambda value: value[1] > since, reversed(values))]
        return recent[::-1]


class FiniteLosses(HookBase):
    """Stop the training at a loss that is not finite, before the optimizer uses its gradients.

    Losses are read after the backward pass, where Detectron2's log waits for the GPU anyway; between the passes the GPU
    would be left idle.
    """

    def __init__(self) -> None:
        self._losses: dict[str, Tensor] = {}
        self._batch: list[dict] = []

    def before_train(self) -> None:
        loop = self.trainer._trainer
        self._handle = loop.model.register_forward_hook(self._keep)
        self._after_backward = HookBase()
        self._after_backward.after_backward = self._check
        loop.register_hooks([self._after_backward])  # Detectron2 calls after_backward only on the loop's own hooks

    def after_train(self) -> None:
        self._handle.remove()
        self.trainer._trainer._hooks.remove(self._after_backward)

    def _keep(self, model, inputs, outputs) -> None:
        if isinstance(outputs, dict) and torch.is_grad_enabled():  # not predictions or validation
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
            "SOLVER.CLIP_GRADIENTS, and continue from the last checkpoint with --resume"
        )


class AverageRunningStatistics(HookBase):
    """Average the running statistics of all processes after each step.

    These are batch norm's running means and variances, which each process updates from its own images, and
    :data:`RUNNING_STATE`. All processes then validate the same model, and the main process's checkpoint holds the state
    of all. The variance between the processes' batch means is not included, as each normalizes by its own.
    """

    def before_train(self) -> None:
        self._model: nn.Module = unwrapped(self.trainer._trainer.model)
        norms = [m for m in self._model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._statistics = [x for m in norms for x in (m.running_mean, m.running_var)]
        self._plain = [name for name in RUNNING_STATE if name in vars(self._model)]

    def after_step(self) -> None:
        device = next(self._model.parameters()).device
        numbers = torch.tensor([float(vars(self._model)[n]) for n in self._plain], device=device)
        average([*self._statistics, numbers])
        vars(self._model).update(zip(self._plain, numbers.tolist(), strict=True))


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


class CheckedJSONWriter(JSONWriter):
    """Write ``metrics.json``; report a full disk in one line."""

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(str(path))
        self._path = path

    def skip_until(self, iteration: int) -> None:
        """Skip scalars up to an iteration; call before the first write."""
        self._last_write = iteration

    def write(self) -> None:
        with write_errors(self._path):
            super().write()

    def close(self) -> None:
        with write_errors(self._path):  # closing flushes the buffer of a failed write, which fails again
            super().close()


class ResumableTensorBoardWriter(TensorboardXWriter):
    """Write TensorBoard events, flushed after each write; a resumed run replaces events after its checkpoint."""

    def skip_until(self, iteration: int) -> None:
        """Skip scalars up to an iteration, and drop what a killed run wrote after it."""
        self._last_write = iteration
        self._writer_args["purge_step"] = iteration + 1

    def write(self) -> None:
        with write_errors(self._writer_args["log_dir"]):
            super().write()
            self._writer.flush()
