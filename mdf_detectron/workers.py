"""Processes that work on many items, and end when the process that started them does."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def parallel_map(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    num_workers: int,
    description: str,
    unit: str = "image",
    chunk: int = 8,
) -> Iterator[_Result]:
    """Yield ``function`` of each item in order, with progress; 0 or 1 workers compute in this process.

    ``function`` must be picklable. The workers end when this process does, however it ends.

    Args:
        chunk: items that a worker takes at a time.
    """
    if not items:
        return
    if num_workers <= 1:
        yield from tqdm(map(function, items), description, len(items), unit=unit)
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # before the workers are forked: they would wait forever for OpenCV's threads, which are not
    pool = ProcessPoolExecutor(num_workers, _start_method(), end_with_parent, (os.getpid(),))
    try:
        yield from tqdm(pool.map(function, items, chunksize=chunk), description, len(items), unit=unit)
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


def _start_method() -> multiprocessing.context.BaseContext:
    """Forking where it exists: a new interpreter would import all of Detectron2 for each worker."""
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it dies, which would otherwise leave it waiting for work forever.

    Args:
        parent: its process id. On Linux the kernel kills at once; elsewhere a thread looks every second.
    """
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
