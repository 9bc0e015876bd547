"""A training sampler that continues where an interrupted run stopped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from detectron2.data.samplers import TrainingSampler


class ResumableTrainingSampler(TrainingSampler):
    """``TrainingSampler`` that can skip what an earlier run has consumed, so that both see the same images.

    Detectron2's starts its shuffled stream anew at each start of the program.
    """

    def __init__(self, size: int, seed: int):
        super().__init__(size, shuffle=True, seed=seed)
        self.num_consumed = 0

    def skip(self, num_consumed: int) -> None:
        """Leave out the first ``num_consumed`` images of this worker's stream; call before iterating."""
        self.num_consumed = num_consumed

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(super().__iter__(), self.num_consumed, None)
