"""Commands in forked processes, as separate as programs of their own, which may kill themselves at a chosen call."""

import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

from mdf_detectron import cli
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


def wait_for(ready: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until ``ready`` returns something true, at most this long; returns what it returned last."""
    deadline = time.monotonic() + seconds
    while not (found := ready()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


class Forked:
    """``mdf WORDS`` in a forked process and session of its own, without importing torch and Detectron2 again.

    Args:
        words: what is typed after ``mdf``; or a function and its arguments, which is called in its place.
        cwd: folder that it runs in.
        log: file that takes all it prints; otherwise :attr:`stdout` and :attr:`stderr` have it.
        environment: variables that it has as well.
        faults: arguments of :func:`watch`, where it kills itself.
    """

    def __init__(
        self,
        *words: object,
        cwd: Path | None = None,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        faults: Sequence[tuple] = (),
    ) -> None:
        self._files = [log.open("a+")] * 2 if log else [tempfile.TemporaryFile("a+"), tempfile.TemporaryFile("a+")]
        cv2.setNumThreads(1)  # ends OpenCV's threads: a forked process, which has none, would wait forever to end them
        work = functools.partial(self._work, words, cwd, environment or {}, faults)
        self._process = multiprocessing.get_context("fork").Process(target=work)
        self._process.start()
        self.pid = self._process.pid

    def _work(self, words: tuple, cwd: Path | None, environment: Mapping[str, str], faults: Sequence[tuple]) -> None:
        os.setsid()
        tqdm.set_lock(threading.RLock())  # tqdm's own is shared by forked processes: one killed within holds it forever
        for number, file in enumerate(self._files, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        torch.set_num_threads(1)  # those of the parent's OpenMP are not here
        os.environ.update(environment)
        os.chdir(cwd or os.getcwd())
        for fault in faults:
            watch(*fault)
        try:
            words[0](*words[1:]) if callable(words[0]) else cli.main([str(word) for word in words])
        except UserError as error:
            sys.exit(f"error: {error}")

    def poll(self) -> int | None:
        """Return the exit status, negative where a signal ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the end, without ``seconds`` for ten minutes; returns the exit status, or None if it still runs."""
        wait_for(lambda: self.poll() is not None, 600 if seconds is None else seconds)
        if seconds is None and self.poll() is None:
            self.kill()
            raise TimeoutError(f"it still ran after ten minutes:\n{self.stdout}\n{self.stderr}")
        return self.poll()

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        self._process.kill()
        self._process.join()

    @property
    def stdout(self) -> str:
        return self._text(0)

    @property
    def stderr(self) -> str:
        return self._text(1)

    def _text(self, number: int) -> str:
        self._files[number].seek(0)
        return self._files[number].read()

    def processes_left(self, patience: float) -> int:
        """Processes of its session that are alive after at most this many seconds."""
        wait_for(lambda: not self._alive(), patience)
        return self._alive()

    def _alive(self) -> int:
        count = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = status.read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:
                continue
            count += int(session) == self.pid and state != "Z"
        return count
