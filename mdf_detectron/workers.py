"""Map a function over many items in processes or threads that end with their parent."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

from mdf_detectron.child_processes import leave_signals_to_parent

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")


def parallel_map(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    num_workers: int,
    description: str,
) -> Iterator[_Result]:
    """Yield ``function(item)`` in order, with a progress bar; 0 or 1 workers compute in this process.

    ``function`` must be picklable. Workers end however this process ends.
    """
    if not items:
        return
    if num_workers <= 1:
        yield from tqdm(map(function, items), description, len(items), unit="image")
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # before the fork: workers would wait forever for OpenCV's threads, which are not forked
    pool = ProcessPoolExecutor(num_workers, _start_method(), leave_signals_to_parent, (os.getpid(),))
    try:
        yield from tqdm(pool.map(function, items, chunksize=8), description, len(items), unit="image")
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


def thread_map(function: Callable[[_Item], _Result], items: Iterable[_Item], num_threads: int) -> Iterator[_Result]:
    """Yield ``function(item)`` in order, computed by threads; an exception cancels the items not yet begun."""
    pool = ThreadPoolExecutor(max(1, num_threads))
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_method() -> multiprocessing.context.BaseContext:
    """Prefer fork: a spawned interpreter would import all of Detectron2."""
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
