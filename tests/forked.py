"""Commands in forked processes: as separate as programs of their own, without importing torch and Detectron2 again."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import torch

from mdf_detectron import cli


class Forked:
    """``mdf WORDS`` in a forked process, with the methods of ``subprocess.Popen``.

    Args:
        words: what is typed after ``mdf``; or one function, which is called in its place.
        cwd: folder that it runs in.
        log: file that takes all it prints; otherwise :attr:`stdout` and :attr:`stderr` have it.
        environment: variables that it has as well.
    """

    def __init__(
        self,
        *words: object,
        cwd: Path | None = None,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._files = [log.open("a+")] * 2 if log else [tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")]
        self.returncode: int | None = None
        cv2.setNumThreads(1)  # ends OpenCV's threads, for which a forked process would wait forever
        self.pid = os.fork()
        if not self.pid:
            self._run(words, cwd, environment or {})

    def _run(self, words: tuple, cwd: Path | None, environment: Mapping[str, str]) -> None:
        status = 1
        try:
            for number, file in enumerate(self._files, start=1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
            torch.set_num_threads(1)  # those of the parent's OpenMP are not here
            os.environ.update(environment)
            os.chdir(cwd or os.getcwd())
            words[0]() if isinstance(words[0], Callable) else cli.main([str(word) for word in words])
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        """Return the exit status, negative where a signal ended it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Wait for the end and return the exit status."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"it still ran after {timeout} s:\n{self.stdout}\n{self.stderr}")
            time.sleep(0.01)
        return self.returncode

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    @property
    def stdout(self) -> str:
        return self._text(0)

    @property
    def stderr(self) -> str:
        return self._text(1)

    def _text(self, number: int) -> str:
        self._files[number].seek(0)
        return self._files[number].read()
