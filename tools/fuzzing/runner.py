"""Run the inputs of a boundary in a process that may hang, crash or ask for any memory, and count what happens."""

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fuzzing.boundary import ACCEPTED, REFUSED, Boundary, NotSound, Outcome
from mdf_detectron.errors import UserError

MEMORY_LIMIT = 2 << 30
"""Bytes of address space beyond what the process has before the first input."""

TIME_LIMIT, LONGEST_WAIT = 20.0, 90.0
"""Seconds of computing, and of doing nothing (a pipe that nobody writes to), after which an input counts as hanging.

Time on the clock says nothing on a machine that others use.
"""

LONGEST_MESSAGE = 340
"""Characters of a line, the input's folder left out; about 300 and the name of a file."""

_WATCHED = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "pty.spawn", "subprocess.Popen", "socket.connect",
            "socket.getaddrinfo", "urllib.Request", "webbrowser.open"}  # fmt: skip
OUTSIDE = "outside"
"""Folder beside an input's folder, which nothing may read or write."""


def run_boundary(
    boundary: Boundary, numbers: Sequence[int], seed: int, time_limit: float = TIME_LIMIT
) -> Iterator[tuple[int, Outcome]]:
    """Yield (number, outcome) of every input; the process is replaced whenever one kills or hangs it."""
    with tempfile.TemporaryDirectory(prefix="fuzz_", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as root:
        base = Path(root)
        state = boundary.setup(_made(base / "setup"))
        worker = None
        for number in numbers:
            worker = worker or _Worker(boundary, seed, base, state)
            outcome = worker.run(number, time_limit)
            yield number, outcome
            if not worker.process.is_alive():
                worker = None
        if worker:
            worker.end()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Worker:
    """A forked process that waits for numbers."""

    def __init__(self, boundary: Boundary, seed: int, base: Path, state: Any) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, boundary, seed, base, state), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, number: int, time_limit: float) -> Outcome:
        self.pipe.send(number)
        made = self._answer(number, 10 * time_limit)  # making a bomb takes long, and does not count
        return made if isinstance(made, Outcome) else self._answer(number, time_limit)

    def _answer(self, number: int, time_limit: float) -> Any:
        """Wait for what the process sends, or say what became of it."""
        start, computed = time.monotonic(), self._seconds_computed()
        while not self.pipe.poll(0.25 if time.monotonic() - start > 0.5 else 0.05):
            waited = time.monotonic() - start
            busy = self._seconds_computed() - computed
            if busy > time_limit or (busy < 1 and waited > LONGEST_WAIT * time_limit / TIME_LIMIT):
                self.end()
                return Outcome("hang", f"no answer after {waited:.0f} s", waited)
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            return Outcome("traceback", f"the process ended with status {self.process.exitcode}")

    def _seconds_computed(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            return 0.0

    def end(self) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def _work(pipe: Any, boundary: Boundary, seed: int, base: Path, state: Any) -> None:
    """Answer numbers with outcomes until the pipe closes."""
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
            number = pipe.recv()
        except EOFError:
            return
        folder = _made(base / f"{os.getpid()}" / "in")
        (_made(folder.parent / OUTSIDE) / "secret.png").write_bytes(b"secret")
        try:
            try:
                given = boundary.input(number, seed, folder, state)
            except Exception:
                raise AssertionError(
                    f"input {number} of {boundary.name} cannot be made:\n{traceback.format_exc()}"
                ) from None
            seen.clear()
            pipe.send("made")
            pipe.send(_outcome(boundary, given, state, seen, base))
        except BaseException:  # a mistake of the fuzzer's
            pipe.send(Outcome("traceback", f"of the fuzzer: {traceback.format_exc()}"[-6000:]))
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)


def _watch(event: str, args: Any, seen: list[str]) -> None:
    if event in _WATCHED:
        seen.append(f"{event} {str(args)[:200]}")
    elif event == "open" and isinstance(args[0], (str, bytes)) and f"/{OUTSIDE}/" in os.fsdecode(args[0]):
        seen.append(f"open {args[0]!r}")


def _outcome(boundary: Boundary, given: Any, state: Any, seen: list[str], base: Path) -> Outcome:
    start = time.monotonic()
    try:
        boundary.check(given, state)
        kind, text = ACCEPTED, ""
    except NotSound as cause:
        kind, text = "accepted wrongly", str(cause)
    except UserError as cause:
        kind, text = _refusal(cause, str(base))
    except MemoryError:
        kind, text = "memory", traceback.format_exc()
    except Exception:
        kind, text = "traceback", traceback.format_exc()
    if seen:
        kind, text = "code or file", "; ".join(seen[:5])
    return Outcome(kind, text[-6000:], time.monotonic() - start)


def _refusal(error: UserError, base: str) -> tuple[str, str]:
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if (
            isinstance(cause, MemoryError)
            and not _of_parser(cause)
            or "insufficient memory" in str(cause).lower()
            or "t allocate" in str(cause)
        ):
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
