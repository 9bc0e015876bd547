"""Run checks in a process that may hang, crash or ask for any memory, and say what became of each."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mdf_detectron.errors import UserError

MEMORY_LIMIT = 2 << 30
"""Bytes of address space beyond what the process has before the first input."""

TIME_LIMIT, LONGEST_WAIT = 20.0, 90.0
"""Seconds of computing, and of doing nothing (a pipe that nobody writes to), after which an input counts as hanging.

Time on the clock says nothing on a machine that others use.
"""

LONGEST_MESSAGE = 340
"""Characters of a line, the input's folder left out; about 300 and the name of a file."""

ACCEPTED, REFUSED = "accepted", "refused"
"""The good outcomes: accepted and sound; refused by one line. Every other one is a failure: "accepted wrongly",
"unnamed" (a message that is not one short line), "traceback" (or the process died), "hang", "memory", "code or file"
(code was executed, or a file outside of the input's folder opened)."""

_WATCHED = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "pty.spawn", "subprocess.Popen", "socket.connect",
            "socket.getaddrinfo", "urllib.Request", "webbrowser.open"}  # fmt: skip
OUTSIDE = "outside"
"""Folder next to an input's folder, which nothing may read or write."""


class NotSound(Exception):
    """An input that was accepted is not what the boundary promises, or reads as another one than it is."""


def expect(sound: bool, text: str) -> None:
    """Raise :class:`NotSound` unless ``sound``."""
    if not sound:
        raise NotSound(text)


class Outcome(NamedTuple):
    """What became of an input, and the message or traceback."""

    kind: str
    text: str = ""


class Sandbox:
    """A forked process that reads inputs; it is replaced when one kills or hangs it. Use it in a ``with`` block.

    Args:
        check: (folder of the input, what :meth:`run`'s ``write`` returned): reads it as the program does; returns if it
            is accepted and sound, raises :class:`UserError` if it is refused, :class:`NotSound` if it should be.
    """

    def __init__(self, check: Callable[[Path, Any], None], time_limit: float = TIME_LIMIT) -> None:
        self._check, self._limit, self._process = check, time_limit, None

    def __enter__(self) -> Sandbox:
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self._base = Path(tempfile.mkdtemp(prefix="fuzz_", dir=memory))
        return self

    def __exit__(self, *error: object) -> None:
        self._end()
        shutil.rmtree(self._base, ignore_errors=True)

    def run(self, write: Callable[[Path], Any]) -> Outcome:
        """Write an input to an empty folder by ``write`` and check it."""
        folder = self._base / "in"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (self._base / OUTSIDE).mkdir(exist_ok=True)
        (self._base / OUTSIDE / "secret.png").write_bytes(b"secret")
        given = write(folder)
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=self._work, args=(theirs, folder), daemon=True)
            self._process.start()
            theirs.close()
        self._pipe.send(given)
        start, computed = time.monotonic(), self._seconds_computed()
        while not self._pipe.poll(0.25 if time.monotonic() - start > 0.5 else 0.05):
            waited, busy = time.monotonic() - start, self._seconds_computed() - computed
            if busy > self._limit or (busy < 1 and waited > LONGEST_WAIT * self._limit / TIME_LIMIT):
                self._end()
                return Outcome("hang", f"no answer after {waited:.0f} s")
        try:
            return Outcome(*self._pipe.recv())
        except EOFError:
            self._process.join()
            return Outcome("traceback", f"the process ended with status {self._process.exitcode}")

    def _seconds_computed(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            return 0.0

    def _end(self) -> None:
        if self._process is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.join()

    def _work(self, pipe: Any, folder: Path) -> None:
        """Answer inputs with outcomes until the pipe closes."""
        faulthandler.disable()  # a crash is an outcome
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, resource.RLIM_INFINITY))
        seen: list[str] = []
        sys.addaudithook(lambda event, args: _watch(event, args, seen))
        while True:
            try:
                given = pipe.recv()
            except EOFError:
                return
            seen.clear()
            kind, text = self._outcome(given, folder)
            pipe.send(("code or file", "; ".join(seen[:5])) if seen else (kind, text[-6000:]))

    def _outcome(self, given: Any, folder: Path) -> tuple[str, str]:
        try:
            self._check(folder, given)
            return ACCEPTED, ""
        except NotSound as cause:
            return "accepted wrongly", str(cause)
        except UserError as cause:
            return _refusal(cause, str(folder.parent))
        except MemoryError:
            return "memory", traceback.format_exc()
        except BaseException:
            return "traceback", traceback.format_exc()


def _watch(event: str, args: Any, seen: list[str]) -> None:
    if event in _WATCHED:
        seen.append(f"{event} {str(args)[:200]}")
    elif event == "open" and isinstance(args[0], (str, bytes)) and f"/{OUTSIDE}/" in os.fsdecode(args[0]):
        seen.append(f"open {args[0]!r}")


def _refusal(error: UserError, base: str) -> tuple[str, str]:
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        said = str(cause).lower()
        if isinstance(cause, MemoryError) and not _of_parser(cause):
            return "memory", text
        if "insufficient memory" in said or "t allocate" in said:
            return "memory", text
        cause = cause.__cause__ or cause.__context__
    lines = [line.replace(base, "") for line in text.split("\n")]
    # a preparation lists all problems, a line each, below their number
    listed = len(lines) > 1 and " problems (" in lines[0] and all(line.startswith("  ") for line in lines[1:])
    if not text.strip() or len(lines) > 1 and not listed or max(map(len, lines)) > LONGEST_MESSAGE:
        return "unnamed", text
    return REFUSED, text


def _of_parser(error: MemoryError) -> bool:
    """Tell whether Python's own parser gave up on nesting, which it calls a lack of memory."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and at.tb_frame.f_code.co_filename.endswith("ast.py")
