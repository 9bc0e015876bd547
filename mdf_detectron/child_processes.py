"""How programs end: with the process that started them, and in one line where a user stops them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_PARENT_VARIABLE = "MDF_PARENT_PROCESS"
CLEANUP_SECONDS = 20.0
"""Longest wait for a child process that was asked to end."""


@contextmanager
def stop_in_one_line() -> Iterator[None]:
    """End the program in one line where Ctrl-C or SIGTERM stops the block: exit status 130 or 143.

    Both raise ``KeyboardInterrupt`` in the main thread, so that the block unwinds: locks are released, partial files
    removed, child processes ended. :func:`when_stopped` sets what the line says. A second Ctrl-C interrupts the
    unwinding.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[tuple[int, float]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append((number, time.monotonic()))
        if len(received) > 1 and number == signal.SIGTERM and time.monotonic() - received[0][1] < CLEANUP_SECONDS:
            return  # a terminal and a parent process both ask
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    line = ""
    try:
        yield
    except BaseException as error:  # a signal to a worker can end the unwinding with another error
        if not received and not isinstance(error, KeyboardInterrupt):
            raise
        line = _stop_message(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if line:  # here the frames of the block are gone, and with them what they hold
        print(line, file=sys.stderr, flush=True)
        sys.exit(128 + (received[0][0] if received else signal.SIGINT))


def _stop_message(error: BaseException) -> str:
    stop = _interrupt_under(error)
    return str(stop) if stop is not None and stop.args else "stopped; run the same command again"


def _interrupt_under(error: BaseException | None) -> KeyboardInterrupt | None:
    """Find the interrupt that an error is, or that was being handled when the error came up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


@contextmanager
def when_stopped(tell: Callable[[str], str]) -> Iterator[None]:
    """Say what is kept and how to continue where Ctrl-C or SIGTERM stops the block.

    Args:
        tell: gets what an inner block has said ("stopped" where none has) and returns the line.
    """
    try:
        yield
    except BaseException as error:  # a signal to a worker can end the unwinding with another error
        if stop := _interrupt_under(error):
            stop.args = (tell(str(stop) or "stopped"),)
        raise


def run_program(command: Sequence[str], **variables: str) -> int:
    """Run a program that ends when this process does, and return its exit status.

    Args:
        command: of ``mdf``, or another program that calls :func:`end_with_caller`.
        variables: see :func:`child_environment`.
    """
    process = subprocess.Popen(command, env=child_environment(**variables))
    try:
        return process.wait()
    except BaseException:
        end_process(process)
        raise


def end_process(process: subprocess.Popen) -> None:
    """Ask a process to end, and kill it after :data:`CLEANUP_SECONDS`."""
    process.terminate()
    try:
        process.wait(CLEANUP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def child_environment(**variables: str) -> dict[str, str]:
    """Environment of a program that is to end when this process does: it calls :func:`end_with_caller`.

    Args:
        variables: added to this process' own, or in their place.
    """
    return {**os.environ, **variables, _PARENT_VARIABLE: str(os.getpid())}


def end_with_caller() -> None:
    """End this program with the process that started it by :func:`child_environment`; else do nothing.

    Not on Windows, where a virtual environment's interpreter is the child of another one.
    """
    parent = os.environ.pop(_PARENT_VARIABLE, None)  # what this program starts has another parent
    if parent is not None and sys.platform != "win32":
        end_with_parent(int(parent))


def leave_signals_to_parent(parent: int) -> None:
    """Start a worker: the process that started it ends it, not Ctrl-C, and the worker never outlives that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent)


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it dies; otherwise it would wait for work forever.

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
