"""Locks of output folders: one run at a time writes to a folder, and a second one is told which run holds it."""

from __future__ import annotations

import json
import os
import socket
import sys
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mdf_detectron.errors import UserError


class FolderInUseError(UserError, OSError):
    """Another process writes to the folder; the message names it."""


class FolderLock:
    """Hold ``<folder's parent>/.<folder's name>.lock`` until :meth:`release` or the end of the process.

    The file stays when the lock is released: removing it would let a third process lock another file of that name.

    Args:
        folder: the output folder; it need not exist yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.path = self.folder.with_name(f".{self.folder.name}.lock")
        self._lock = FileLock(str(self.path))

    def acquire(self) -> FolderLock:
        """Take the lock at once.

        Raises:
            FolderInUseError: another run holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUseError(
                f"{self.folder} is in use by {self._holder()}: wait for it to end, or name another folder"
            ) from None
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "program": Path(sys.argv[0]).name,
            "since": datetime.now().isoformat(timespec="seconds"),
        }
        self._about.write_text(json.dumps(about), encoding="utf-8")
        return self

    def release(self) -> None:
        """Give the lock back."""
        if self._lock.is_locked:
            self._about.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> FolderLock:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def _about(self) -> Path:
        return self.path.with_suffix(".json")

    def _holder(self) -> str:
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            return f"process {about['pid']} on {about['host']} ({about['program']}, since {about['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
