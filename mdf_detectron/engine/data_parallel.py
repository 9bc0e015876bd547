"""One model in several processes: gradients averaged by torch, running statistics averaged here."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mdf_detectron.engine.hooks.losses import RUNNING_STATE


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap a model for the processes of this training; a single process gets the model back.

    Detectron2's ``create_ddp_model`` names a GPU in any case, which torch refuses for a model on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    devices = None if model.device.type == "cpu" else [comm.get_local_rank()]
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


class AverageRunningStatistics(HookBase):
    """Give all processes the mean of their running statistics after each step.

    These are the running means and variances of batch norm, which each process moves by its own images, and RetinaNet's
    number of positive anchors.  With one set of numbers all processes validate the same model, and the checkpoint,
    which the main process writes, holds the state of all.  (The spread of the batches' means between processes is not
    in the variance, as each normalizes by its own.)
    """

    def before_train(self) -> None:
        model = self.trainer._trainer.model
        self._model = getattr(model, "module", model)
        norms = [m for m in self._model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._statistics = [x for m in norms for x in (m.running_mean, m.running_var)]
        self._plain = [name for name in RUNNING_STATE if name in vars(self._model)]

    def after_step(self) -> None:
        numbers = torch.tensor([float(vars(self._model)[n]) for n in self._plain], device=self._model.device)
        average([*self._statistics, numbers])
        vars(self._model).update(zip(self._plain, numbers.tolist(), strict=True))


def average(tensors: list[Tensor]) -> None:
    """Replace float tensors by their mean over all processes, in one exchange."""
    with torch.no_grad():
        flat = torch.cat([x.flatten() for x in tensors])
        if not len(flat):
            return
        dist.all_reduce(flat)
        flat /= comm.get_world_size()
        for x, mean in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view_as(x))
