"""The training stream: places, skipping, processes and seeds."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler

from mdf_detectron.data.loaders import ResumableSampler, SeededByPlace, StreamIndex, derive_seed, seeded


def sampler(rank=0, world=1, size=5):
    inner = TrainingSampler(size, seed=3)
    inner._rank, inner._world_size = rank, world
    return ResumableSampler(inner, rank, world)


def taken(one, count):
    return [(int(i), i.place) for i in islice(iter(one), count)]


def test_a_skipped_stream_is_the_rest_of_the_whole_one():
    whole, rest = sampler(), sampler()
    rest.skip(7)
    assert taken(rest, 6) == taken(whole, 13)[7:]
    assert [place for _, place in taken(whole, 4)] == [0, 1, 2, 3]


def test_processes_share_one_stream():
    whole = taken(sampler(), 12)
    parts = [sampler(rank, 2) for rank in range(2)]
    assert sorted(taken(parts[0], 6) + taken(parts[1], 6), key=lambda x: x[1]) == whole
    parts[1].skip(4)
    assert taken(parts[1], 2) == [whole[5], whole[7]]
    with pytest.raises(ValueError, match="5 images cannot be shared by 2 processes"):
        parts[0].skip(5)


class Noise:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def test_random_operations_follow_from_seed_and_place_alone():
    data = SeededByPlace(Noise(), seed=1)
    first = data[StreamIndex(2, 10)]
    torch.rand(7), np.random.rand(3)
    assert data[StreamIndex(2, 10)] == first
    assert data[StreamIndex(2, 11)][1:] != first[1:]
    assert SeededByPlace(Noise(), seed=2)[StreamIndex(2, 10)][1:] != first[1:]
    assert len(data) == 3 and data[1] == data[1]


def test_the_generators_are_left_as_they_were():
    with seeded(5):
        inside = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with seeded(5):
        again = torch.rand(3), np.random.rand(3), random.random()
    outside = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(outside[0], expected[0]) and (outside[1] == expected[1]).all() and outside[2] == expected[2]
    assert torch.equal(inside[0], again[0]) and (inside[1] == again[1]).all() and inside[2] == again[2]


def test_seeds_of_neighbors_differ():
    seeds = {derive_seed(1, i, j) for i in range(50) for j in range(3)}
    assert len(seeds) == 150
