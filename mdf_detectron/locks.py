"""Locks of output folders: one run at a time writes to a folder, and a second one is told which run holds it.

The operating system gives a lock back when its process ends, however it ends; no file that is left behind blocks
anything. On network file systems this holds where they support ``flock`` (NFS from version 4 on does).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
from datetime import datetime
from pathlib import Path

from mdf_detectron.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

LOCK_FILE_NAME = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)

logger = logging.getLogger(__name__)


class FolderInUseError(UserError, OSError):
    """Another process writes to the folder; the message names it."""


class FolderLock:
    """Hold an output folder until the block ends or the process dies.

    Args:
        folder: it need not exist yet.
        beside: the lock file is ``.<name>.lock`` in the parent folder, for a folder that is replaced as a whole;
            otherwise it is ``.lock`` in the folder, which is made.
        wait: for the run that holds it, instead of an error.
    """

    def __init__(self, folder: str | Path, *, beside: bool = False, wait: bool = False) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.path = (
            self.folder.with_name(f".{self.folder.name}{LOCK_FILE_NAME}") if beside else self.folder / LOCK_FILE_NAME
        )
        self._handle: int | None = None
        self._wait = wait

    def __enter__(self) -> FolderLock:
        """Take the lock, at once or when its holder has ended.

        Raises:
            FolderInUseError: another run holds it.
            UserError: the lock file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._take():
                pass  # its holder has just removed the file: there is a new one to lock
        except FolderInUseError:
            raise
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror or error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)  # while it is still held, so that nobody's new file is removed
        os.close(self._handle)
        _held.discard(self._handle)

    def _take(self) -> bool:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is None:
                logger.warning("%s cannot be locked on this system; start no second run in it", self.folder)
            else:
                self._lock(handle)
            if not self.path.exists() or os.stat(self.path).st_ino != os.fstat(handle).st_ino:
                os.close(handle)
                return False
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(_about_this_process()).encode())
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        _held.add(handle)
        return True

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN and self._wait:
                logger.warning("%s is in use by %s: waiting for it to end", self.folder, _holder(handle))
                fcntl.flock(handle, fcntl.LOCK_EX)
            elif error.errno in _TAKEN:
                raise FolderInUseError(
                    f"{self.folder} is in use by {_holder(handle)}: wait for it to end, or name another folder"
                ) from None
            else:
                logger.warning("%s cannot be locked (%s); start no second run in it", self.folder, error.strerror)


def _about_this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "program": Path(sys.argv[0]).name,
        "since": datetime.now().isoformat(sep=" ", timespec="seconds"),
    }


def _holder(handle: int) -> str:
    try:
        about = json.loads(os.pread(handle, 4096, 0))
        return f"process {about['pid']} on {about['host']} ({about['program']}, since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written it yet
        return "another process"


_held: set[int] = set()
"""Handles of this process' locks."""


def _let_go_in_child() -> None:
    """A forked worker that outlives its parent for a moment must not hold the parent's locks."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
