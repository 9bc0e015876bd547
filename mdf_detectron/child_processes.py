"""Programs and workers that end when the process that started them does, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_PARENT_VARIABLE = "MDF_PARENT_PROCESS"


def child_environment(**variables: str) -> dict[str, str]:
    """Environment of a program that is to end when this process does: it calls :func:`end_with_caller`.

    Args:
        variables: what it has beside, or instead of, this process's.
    """
    return {**os.environ, **variables, _PARENT_VARIABLE: str(os.getpid())}


def end_with_caller() -> None:
    """End this program with the process that started it by :func:`child_environment`; else do nothing.

    Not on Windows, where a virtual environment's interpreter is the child of another one.
    """
    parent = os.environ.pop(_PARENT_VARIABLE, None)  # what this program starts has another parent
    if parent is not None and sys.platform != "win32":
        end_with_parent(int(parent))


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
