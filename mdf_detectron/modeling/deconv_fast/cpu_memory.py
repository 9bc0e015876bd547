"""Training on a CPU without giving memory back to the system between two maps."""

from __future__ import annotations

import ctypes
import logging
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``, from its ``malloc.h``."""


_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next allocation, from now on.

    By default glibc asks the system for every block above 32 MiB, and returns it when it is freed.  The system clears
    each page anew, which costs more than the arithmetic of a map of 64 channels and 256×256 pixels.  Peak memory stays
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
