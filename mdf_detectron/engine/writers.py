"""Write a training's scalars; a resumed run continues the files without repeating or losing a line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

from mdf_detectron.errors import ConfigError, UserError


@contextmanager
def _in_one_line(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


class CheckedJSONWriter(JSONWriter):
    """Write ``metrics.json``; report a full disk in one line."""

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(str(path))
        self._path = path

    def skip_until(self, iteration: int) -> None:
        """Skip scalars up to an iteration; call before the first write."""
        self._last_write = iteration

    def write(self) -> None:
        with _in_one_line(self._path):
            super().write()

    def close(self) -> None:
        with _in_one_line(self._path):  # closing flushes the buffer of a failed write, which fails again
            super().close()


class ResumableTensorBoardWriter(TensorboardXWriter):
    """Write TensorBoard events, flushed after each write; a resumed run replaces events after its checkpoint."""

    def skip_until(self, iteration: int) -> None:
        """Skip scalars up to an iteration, and drop what a killed run wrote after it."""
        self._last_write = iteration
        self._writer_args["purge_step"] = iteration + 1

    def write(self) -> None:
        with _in_one_line(self._writer_args["log_dir"]):
            super().write()
            self._writer.flush()


def check_trackers(cfg: CfgNode) -> None:
    """Raise ``ConfigError``, which says what to install, if the package of a tracker in ``TRACKERS`` is missing."""
    absent = [name for name in cfg.TRACKERS if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"TRACKERS names {', '.join(absent)}, which is not installed; run: pip install 'mdf_detectron[trackers]'"
        )


def build_trackers(cfg: CfgNode) -> list[EventWriter]:
    """Build the writers that ``TRACKERS`` names, see :mod:`~mdf_detectron.engine.trackers`."""
    if not cfg.TRACKERS:
        return []
    check_trackers(cfg)
    from mdf_detectron.engine import trackers  # only when needed

    return trackers.build_trackers(cfg)
