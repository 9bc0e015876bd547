"""Map functions over many items in processes and threads; end programs with their parent, or in one line."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
_PARENT_VARIABLE = "MDF_PARENT_PROCESS"
CLEANUP_SECONDS = 20.0
"""How long a child process may take to end before it is killed."""
_received: list[tuple[int, float]] = []
"""Signals that stop the block of :func:`stop_in_one_line`, with their times."""


@contextmanager
def stop_in_one_line() -> Iterator[None]:
    """Exit with one line and status 130 or 143 when Ctrl-C or SIGTERM stops the block.

    Both raise ``KeyboardInterrupt`` in the main thread, so that the block unwinds: it releases locks, removes partial
    files, ends child processes. :func:`when_stopped` sets the line. A second Ctrl-C interrupts the unwinding.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        _received.append((number, time.monotonic()))
        if len(_received) > 1 and number == signal.SIGTERM and time.monotonic() - _received[0][1] < CLEANUP_SECONDS:
            return  # a terminal and a parent process can both send one
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    line = ""
    try:
        yield
    except BaseException as error:  # a signal to a worker can replace the interrupt by another error
        if not _received and not isinstance(error, KeyboardInterrupt):
            raise
        line = _stop_message(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if line:  # by now the block's frames, and what they held, are gone
        print(line, file=sys.stderr, flush=True)
        sys.exit(128 + (_received[0][0] if _received else signal.SIGINT))


def _stop_message(error: BaseException) -> str:
    stop = _interrupt_under(error)
    return str(stop) if stop is not None and stop.args else "stopped; run the same command again"


def _interrupt_under(error: BaseException | None) -> KeyboardInterrupt | None:
    """Find the interrupt that an error is, or that was being handled when it was raised."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


@contextmanager
def when_stopped(tell: Callable[[str], str]) -> Iterator[None]:
    """Set the line of :func:`stop_in_one_line`; ``tell`` maps an inner block's line, by default "stopped", to it."""
    try:
        yield
    except BaseException as error:  # a signal to a worker can replace the interrupt by another error
        if stop := _interrupt_under(error):
            stop.args = (tell(str(stop) or "stopped"),)
        elif _received:  # an interrupt that is raised in a callback is lost
            raise KeyboardInterrupt(tell("stopped")) from error
        raise


def run_program(command: Sequence[str], **variables: str) -> int:
    """Run a program that calls :func:`end_with_caller` in :func:`child_environment`; return its exit status."""
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
    """Return the environment for a program that calls :func:`end_with_caller`: this process's, ``variables`` set."""
    return {**os.environ, **variables, _PARENT_VARIABLE: str(os.getpid())}


def end_with_caller() -> None:
    """End this program with the process that started it using :func:`child_environment`; otherwise do nothing.

    Not on Windows, where a virtual environment's interpreter is the child of another one.
    """
    parent = os.environ.pop(_PARENT_VARIABLE, None)  # this program's own children have another parent
    if parent is not None and sys.platform != "win32":
        end_with_parent(int(parent))


def leave_signals_to_parent(parent: int) -> None:
    """Initialize a worker: its parent ends it, Ctrl-C does not, and it never outlives the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent)


def end_with_parent(parent: int) -> None:
    """End this process when its parent (a process id) dies; otherwise it would wait for work forever.

    On Linux the kernel kills it at once; elsewhere a thread checks every second.
    """
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def parallel_map(
    function: Callable[[_Item], _Result], items: Sequence[_Item], num_workers: int, description: str
) -> Iterator[_Result]:
    """Yield ``function(item)`` in order, with a progress bar; 0 or 1 workers compute in this process.

    ``function`` must be picklable. Workers end however this process ends.
    """
    from concurrent.futures import ProcessPoolExecutor  # not at the top: they would slow every command's start

    import cv2
    from tqdm import tqdm

    if not items:
        return
    if num_workers <= 1:
        yield from tqdm(map(function, items), description, len(items), unit="image")
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # before the fork: workers would wait forever for OpenCV's threads, which are not forked
    # fork where there is one: a spawned interpreter would import all of Detectron2
    method = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    pool = ProcessPoolExecutor(num_workers, method, leave_signals_to_parent, (os.getpid(),))
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
