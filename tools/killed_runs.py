"""Commands in forked processes that kill themselves at a chosen call of a function; a part of crash_test.py."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from mdf_detectron.errors import UserError


@dataclass(frozen=True)
class Place:
    """A function in which a run is killed: before its ``number``-th call, after it, or in the middle of a file."""

    name: str
    owner: Any
    function: str
    cuts: bool = False


def watch(place: Place, number: int, where: str, counts: Path | None = None) -> None:
    """Replace a function by one that kills this process, and so its workers, at its ``number``-th call.

    Args:
        where: "before", "after", or "within" (the file that the function writes is cut).
        counts: file that gets a byte for each call, to learn how many there are.
    """
    original, main, calls = getattr(place.owner, place.function), os.getpid(), 0

    @functools.wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if counts is not None:
            with open(counts, "ab") as file:
                file.write(b".")
        if calls == number and where == "before":
            os.kill(main, signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == number:
            if where == "within":
                args[1].flush()
                os.ftruncate(args[1].fileno(), args[1].tell() // 2)
            os.kill(main, signal.SIGKILL)
        return result

    setattr(place.owner, place.function, counted)


class Run:
    """A command in a forked process and session of its own."""

    def __init__(self, main: Callable[[list[str]], Any], argv: Sequence[str], log: Path, faults: Sequence = ()) -> None:
        self.log = log
        cv2.setNumThreads(1)  # ends OpenCV's threads: a forked process, which has none, would wait forever to end them
        self.process = multiprocessing.get_context("fork").Process(target=self._work, args=(main, list(argv), faults))
        self.process.start()

    def _work(self, main: Callable[[list[str]], Any], argv: list[str], faults: Sequence) -> None:
        os.setsid()
        tqdm.set_lock(threading.RLock())  # tqdm's own is shared by forked processes: one killed within holds it forever
        handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        for fault in faults:
            watch(*fault)
        try:
            main(argv)
        except UserError as error:
            sys.exit(f"error: {error}")

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the end; the exit status, or None if it still runs."""
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def processes_left(self, patience: float) -> int:
        """Processes of its session that are alive after at most this many seconds."""
        deadline = time.monotonic() + patience
        while (left := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def _alive(self) -> int:
        count = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = status.read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:
                continue
            count += int(session) == self.process.pid and state != "Z"
        return count
