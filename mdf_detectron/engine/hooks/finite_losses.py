"""The stop at a loss that is no number: it names the loss, the iteration and the images of the batch."""

from __future__ import annotations

import torch
from detectron2.engine import HookBase

from mdf_detectron.errors import UserError


class TrainingDivergedError(UserError, FloatingPointError):
    """A loss that is NaN or infinite; the message names it and the batch."""


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
            "rows (tools/visualize_data.py); if they are sound, lower SOLVER.BASE_LR or switch on "
            "SOLVER.CLIP_GRADIENTS, and go on from the last checkpoint with --resume"
        )
