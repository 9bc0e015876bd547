"""A training stream in which every image's augmentation follows from its place, so that a resumed run sees the same.

The place of an image is its number among all images that a training sees, over all processes: number ``n`` belongs to
iteration ``n // images_per_batch``, whatever the number of processes and loader workers is.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info


def derive_seed(*parts: int) -> int:
    """Mix integers into one seed in [0, 2**32); other parts give unrelated streams (NumPy's ``SeedSequence``)."""
    return int(np.random.SeedSequence([abs(int(p)) for p in parts]).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed the generators of ``random``, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _seed_cpu(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generators within the block and restore their states behind it."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    _seed_cpu(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


class StreamIndex(int):
    """Index of a record that knows its place in the training stream.

    Attributes:
        place: number of the image in the stream over all processes.
    """

    place: int

    def __new__(cls, index: int, place: int) -> StreamIndex:
        self = super().__new__(cls, index)
        self.place = place
        return self


class ResumableSampler(Sampler):
    """Number the indices of an infinite sampler, and start behind those that an earlier run has consumed.

    Detectron2's samplers start their shuffled stream anew at each start of the program.

    Args:
        sampler: an infinite sampler of Detectron2 that gives one process every ``world_size``-th index of a common
            stream.
        rank, world_size: of this process.
    """

    def __init__(self, sampler: Sampler, rank: int = 0, world_size: int = 1):
        self.sampler, self.rank, self.world_size = sampler, rank, world_size
        self.num_consumed = 0

    def skip(self, num_images: int) -> None:
        """Start at the image number ``num_images`` of the stream over all processes; call before iterating.

        Raises:
            ValueError: a number that does not divide by the number of processes.
        """
        if num_images % self.world_size:
            raise ValueError(f"{num_images} images cannot be shared by {self.world_size} processes")
        self.num_consumed = num_images // self.world_size

    def __iter__(self) -> Iterator[StreamIndex]:
        for number, index in enumerate(itertools.islice(iter(self.sampler), self.num_consumed, None)):
            yield StreamIndex(index, (self.num_consumed + number) * self.world_size + self.rank)


class SeededByPlace(Dataset):
    """A map-style data set whose random operations on an image follow from the seed and the image's place.

    Args:
        dataset: maps records, with random augmentations.
        seed: of the training.
    """

    def __init__(self, dataset: Sequence[Any] | Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """The mapped record; a plain index (not of the stream) is seeded by the index itself."""
        seed = derive_seed(self.seed, getattr(index, "place", int(index)), 1)
        if get_worker_info() is not None:  # a process for images alone: nothing else draws from its generators
            _seed_cpu(seed)
            return self.dataset[int(index)]
        with seeded(seed):
            return self.dataset[int(index)]
