"""Gradient accumulation: a batch goes through the model in parts, then the optimizer takes one step."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor


class InParts:
    """Run a step's batch in parts of nearly the same size; its gradient is the mean of theirs, weighted by images.

    That is the whole batch's gradient where a loss is a mean over images and no layer mixes images, as batch norm does.
    Losses over sampled regions are means over a part's regions instead of the batch's.

    Args:
        parts: number of parts, at most the images of a process.
    """

    def __init__(self, *args: Any, parts: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.parts = parts

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        scaler = getattr(self, "grad_scaler", None)
        means: dict[str, Tensor] = {}
        self.optimizer.zero_grad()
        for number in range(self.parts):
            part = batch[len(batch) * number // self.parts : len(batch) * (number + 1) // self.parts]
            with torch.autocast("cuda", dtype=self.precision) if scaler else nullcontext():
                losses = {name: x * (len(part) / len(batch)) for name, x in self.model(part).items()}
            total = sum(losses.values())
            (scaler.scale(total) if scaler else total).backward()
            self.after_backward()
            means = {name: means.get(name, 0) + x.detach() for name, x in losses.items()}
        self._write_metrics(means, data_time)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()


def in_parts(loop: type[SimpleTrainer], parts: int) -> Callable[..., SimpleTrainer]:
    """Return Detectron2's loop, or for ``parts`` above 1 one that runs each batch in parts."""
    return loop if parts == 1 else partial(type(f"{loop.__name__}InParts", (InParts, loop), {}), parts=parts)
