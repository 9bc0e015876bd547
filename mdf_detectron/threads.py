"""Set how a process uses cores and memory: thread count, waiting, freed memory. Imports nothing that loads OpenMP."""

import ctypes
import logging
import os
import sys
from functools import cache

SPIN_COUNT = 200
"""Rounds that a GNU OpenMP thread spins before it sleeps. Thousands are slightly faster on a quiet machine, but make
training 2 to 20 times slower on a busy one."""


def wait_briefly() -> None:
    """Let OpenMP threads spin briefly and then sleep, unless the user has set ``OMP_WAIT_POLICY``.

    OpenMP reads the variables when it is loaded, so this does nothing after ``import torch``.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def free_cores(workers: int = 0, processes: int = 1) -> int:
    """Return the cores of this process divided by ``processes``, minus ``workers`` of each; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes - workers)


def use_free_cores(workers: int = 0, processes: int = 1) -> None:
    """Give torch :func:`free_cores` threads, unless ``OMP_NUM_THREADS`` is set (torchrun sets it).

    A thread that shares its core with a loader worker makes all others wait: on two cores a step at 128 px takes
    0.07 s with one thread and one worker, 0.12 s with two threads, and 1.1 s with two next to a busy process.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        import torch  # not at the top: wait_briefly must run first

        torch.set_num_threads(free_cores(workers, processes))


@cache
def one_thread_in_forks() -> None:
    """Give torch one thread in every process forked from now on: it would wait forever for its parent's others."""
    if hasattr(os, "register_at_fork"):
        import torch

        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of glibc's ``mallopt``, from ``malloc.h``."""
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make this process keep freed memory for its next allocations.

    By default glibc gets every block above 32 MiB from the system and returns it when freed. The system clears each
    page again, which costs more than the arithmetic on a map of 64 channels and 256×256 pixels. Peak memory hardly
    changes, but the process holds it to its end. If the C library is not glibc 2.35 or newer, log it and return False.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (OSError, AttributeError):
        mallopt = None
    # In this order: older versions refuse the first option, and the second alone would make things worse.
    done = mallopt is not None and all(mallopt(option, _MOST) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
    if not done:
        logging.getLogger(__name__).info("freed memory goes back to the system: the C library cannot keep it")
    return done
