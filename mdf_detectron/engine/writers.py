"""Writers of a training's scalars whose files a resumed run goes on with, without a line twice or lost."""

from __future__ import annotations

import os

from detectron2.utils.events import JSONWriter, TensorboardXWriter

from mdf_detectron.errors import UserError


class CheckedJSONWriter(JSONWriter):
    """``JSONWriter`` that tells of a full disk in one line."""

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(str(path))
        self._path = path

    def skip_until(self, iteration: int) -> None:
        """Write only what was put behind an iteration; call before the first write."""
        self._last_write = iteration

    def write(self) -> None:
        try:
            super().write()
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror or error})") from None

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # of what the failed write has left in the buffer
            raise UserError(f"{self._path}: cannot be written ({error.strerror or error})") from None


class ResumableTensorBoardWriter(TensorboardXWriter):
    """``TensorboardXWriter`` whose events are on the disk after each write; a resumed run replaces later ones."""

    def skip_until(self, iteration: int) -> None:
        """Write only what was put behind an iteration, and drop what a killed run has written behind it."""
        self._last_write = iteration
        self._writer_args["purge_step"] = iteration + 1

    def write(self) -> None:
        try:
            super().write()
            self._writer.flush()
        except OSError as error:
            raise UserError(f"{self._writer_args['log_dir']}: cannot be written ({error.strerror or error})") from None
