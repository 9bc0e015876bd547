"""How a process uses processors and memory: threads, how they wait, freed memory; imports nothing that loads OpenMP."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

SPIN_COUNT = 200
"""Rounds that a thread of GNU's OpenMP spins before it sleeps. Thousands are a little faster on a quiet machine; on a
busy one they make a training 2 to 20 times slower."""


def wait_briefly() -> None:
    """Let OpenMP's threads spin for a moment and then sleep, where the user has not set ``OMP_WAIT_POLICY``.

    OpenMP reads the variables when it is loaded: after ``import torch`` this does nothing.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def free_cores(workers: int = 0, processes: int = 1) -> int:
    """Count the cores that each of several processes of this machine has next to its data loader's workers.

    Args:
        workers: of one process.
        processes: that share the cores which this one may use.

    Returns:
        at least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes - workers)


def use_free_cores(workers: int = 0, processes: int = 1) -> None:
    """Give torch as many threads as :func:`free_cores`, unless ``OMP_NUM_THREADS`` says otherwise (torchrun sets it).

    A thread that shares its core with a loader's worker makes all others wait: on two cores a step of 128 px takes
    0.07 s with one thread and one worker, 0.12 s with two threads, and 1.1 s with two next to a busy process.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        import torch  # not at the top: wait_briefly comes before it

        torch.set_num_threads(free_cores(workers, processes))


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``, from its ``malloc.h``."""
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next allocation, from now on.

    By default glibc asks the system for every block above 32 MiB, and returns it when it is freed.  The system clears
    each page again, which costs more than the arithmetic of a map of 64 channels and 256×256 pixels.  Peak memory stays
    about what it was; the process holds it to its end.

    Returns:
        whether it was done: False, and a line in the log, where the C library is not glibc of 2.35 or newer.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (OSError, AttributeError):
        mallopt = None
    # In this order: older ones refuse the first, and the second without it would make things worse.
    done = mallopt is not None and all(mallopt(option, _MOST) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
    if not done:
        logging.getLogger(__name__).info("freed memory goes back to the system: the C library cannot keep it")
    return done
