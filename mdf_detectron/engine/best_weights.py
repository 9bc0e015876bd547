"""The weights of the best checkpoint in the place of the last ones, for as long as the test split is scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn

from mdf_detectron.checkpoint.checkpoint import Checkpoint


@contextmanager
def weights_of(path: Path | None, model: nn.Module) -> Iterator[None]:
    """Give a model the weights of a checkpoint of its own run; behind the block it has those of before again.

    Args:
        path: the main process's word counts, and the other processes get the weights from it; None changes nothing.
        model: the bare model of this process.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not comm.all_gather(path is not None)[0]:
        yield
        return
    before = {name: x.clone() for name, x in model.state_dict().items()}
    if comm.is_main_process():
        model.load_state_dict(Checkpoint.open(path).weights)
    if comm.get_world_size() > 1:
        _copy_from_main(model)
    try:
        yield
    finally:
        model.load_state_dict(before)


@torch.no_grad()
def _copy_from_main(model: nn.Module) -> None:
    for x in model.state_dict().values():
        sent = x.contiguous()
        dist.broadcast(sent, 0)
        x.copy_(sent)
