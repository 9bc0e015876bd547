"""Lock output folders: one run at a time writes to a folder, and a second one is told which run holds it.

The operating system releases a lock however its process ends; a leftover file blocks nothing. Network file systems
must support ``flock`` (NFS does from version 4 on).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mdf_detectron.errors import UserError
from mdf_detectron.fileio import write_errors

LOCK_FILE_NAME = ".lock"

logger = logging.getLogger(__name__)


class FolderInUseError(UserError, OSError):
    """Another process is writing to the folder; the message names it."""


class FolderLock:
    """Lock an output folder, which need not exist yet, until the block ends or the process dies.

    Args:
        in_parent: put the lock file ``.<name>.lock`` in the parent folder, for a folder that is replaced as a whole;
            otherwise it is ``.lock`` in the folder, which is created.
        wait: wait for the run that holds the lock instead of raising.
    """

    def __init__(self, folder: str | Path, *, in_parent: bool = False, wait: bool = False) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.path = (
            self.folder.with_name(f".{self.folder.name}{LOCK_FILE_NAME}") if in_parent else self.folder / LOCK_FILE_NAME
        )
        self._wait = wait
        # filelock's fallback without flock, a soft lock, would outlive its process.
        self._lock = FileLock(self.path, thread_local=False, fallback_to_soft=False)

    def __enter__(self) -> FolderLock:
        """Take the lock; raise ``FolderInUseError`` if another run holds it and ``wait`` is not set."""
        with write_errors(self.folder):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.touch()
                self._take()
                self.path.write_text(json.dumps(_about_this_process()), encoding="utf-8")
            except OSError:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)  # before the release, so that no other run's file is removed
        self._lock.release()

    def _take(self) -> None:
        try:
            self._lock.acquire(timeout=0.2, poll_interval=0.05)  # the holder may be ending
        except Timeout:
            if not self._wait:
                raise FolderInUseError(
                    f"{self.folder} is in use by {self._holder()}: wait for it to end, or name another folder"
                ) from None
            logger.warning("%s is in use by %s: waiting for it to end", self.folder, self._holder())
            self._lock.acquire()
        except OSError as error:  # a file system without locks
            logger.warning("%s cannot be locked (%s); start no second run in it", self.folder, error.strerror)

    def _holder(self) -> str:
        try:
            about = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {about['pid']} on {about['host']} ({about['program']}, since {about['since']})"
        except (OSError, ValueError, KeyError, TypeError):  # not written yet
            return "another process"


def _about_this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "program": Path(sys.argv[0]).name,
        "since": datetime.now().isoformat(sep=" ", timespec="seconds"),
    }
