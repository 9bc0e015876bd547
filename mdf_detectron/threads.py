"""How the threads of the numerical libraries wait for each other; imports nothing that loads OpenMP."""

from __future__ import annotations

import os
import sys

SPIN_COUNT = 20_000
"""Rounds that a thread of GNU's OpenMP spins before it sleeps, some tens of microseconds: the pauses between a step's
parallel regions are shorter, those that a busy machine makes are longer. Fewer rounds are kinder to another training
on the same cores and slower alone (docs/experiments/); threads of its own are what such a one needs."""


def wait_briefly() -> None:
    """Let OpenMP's threads spin for a moment and then sleep, where the user has not set ``OMP_WAIT_POLICY``.

    By default they spin for long, which takes the processor from whatever else runs on it: on a busy machine a training
    then takes 2 to 20 times as long. Threads that sleep at once have to be woken for every parallel region, which made
    the steps of small images on a quiet machine twice as long. OpenMP reads the variables when it is loaded, so that
    behind ``import torch`` this does nothing.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
