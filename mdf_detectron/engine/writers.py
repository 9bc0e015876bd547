"""Writers of a training's scalars; a resumed run continues their files without doubling or losing a line."""

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
    """Write ``metrics.json``; a full disk is one line."""

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(str(path))
        self._path = path

    def skip_until(self, iteration: int) -> None:
        """Write only what is logged after an iteration; call before the first write."""
        self._last_write = iteration

    def write(self) -> None:
        with _in_one_line(self._path):
            super().write()

    def close(self) -> None:
        with _in_one_line(self._path):  # what a failed write has left in the buffer fails again
            super().close()


class ResumableTensorBoardWriter(TensorboardXWriter):
    """Write TensorBoard events, which are on the disk after each write; a resumed run replaces later ones."""

    def skip_until(self, iteration: int) -> None:
        """Write only what is logged after an iteration, and drop what a killed run has written after it."""
        self._last_write = iteration
        self._writer_args["purge_step"] = iteration + 1

    def write(self) -> None:
        with _in_one_line(self._writer_args["log_dir"]):
            super().write()
            self._writer.flush()


def check_trackers(cfg: CfgNode) -> None:
    """Fail before any work if the package of a tracker of ``TRACKERS`` is absent.

    Raises:
        ConfigError: it says what to install.
    """
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
    from mdf_detectron.engine import trackers  # nothing of it is needed otherwise

    return trackers.build_trackers(cfg)
