"""Exact resume: every iteration starts from random states of its own, and no state of the model is left out."""

from __future__ import annotations

import itertools
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from mdf_detectron.data.loaders import derive_seed, seed_everything
from mdf_detectron.engine.hooks.losses import RUNNING_STATE


class SeedIterations(HookBase):
    """Seed all generators before each step from the training's seed, the iteration and the process.

    What happens between two steps (validation, a restart) then cannot change what is sampled in the next one.

    Args:
        seed: of the training.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        seed_everything(derive_seed(self.seed, self.trainer.iter, comm.get_rank(), 0))


class ModelRunningState(HookBase):
    """Keep plain attributes that a model moves on in training (RetinaNet's loss normalizer) in the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        own = vars(self._model())
        return {name: float(own[name]) for name in RUNNING_STATE if name in own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self._model()).update({name: value for name, value in state.items() if name in RUNNING_STATE})

    def _model(self):
        model = self.trainer._trainer.model
        return getattr(model, "module", model)


class ScalarHistory(HookBase):
    """Keep the last scalars in the checkpoint: the logs of a resumed run then go on as if it had never stopped.

    A log smooths its lines over a window, and holds back what was put between two of its writes.

    Args:
        window: iterations over which the writers smooth.
    """

    _TIMES = ("time", "data_time", "rank_data_time", "eta_seconds")  # of the process that measured them

    def __init__(self, window: int = 20) -> None:
        self.window = window
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
        since = values[-1][1] - self.window if smooth else values[-1][1] - 1
        recent = [list(value) for value in itertools.takewhile(lambda value: value[1] > since, reversed(values))]
        return recent[::-1]
