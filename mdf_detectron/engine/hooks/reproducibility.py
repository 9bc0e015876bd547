"""Exact resume: every iteration starts from random states of its own, and no state of the model is left out."""

from __future__ import annotations

from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from mdf_detectron.data.seeded_stream import derive_seed, seed_everything
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
