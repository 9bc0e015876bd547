"""Types of arguments that commands share: a missing file or folder is one line, before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from mdf_detectron.errors import UserError
from mdf_detectron.fileio import check_regular, shorten_path


def existing_file(text: str) -> str:
    """Accept the path of a regular file, as the ``type`` of an argument.

    Raises:
        UserError: there is none.
    """
    check_regular(text, UserError)
    return text


def prepared_folder(text: str) -> str:
    """Accept the path of a prepared folder, as the ``type`` of an argument.

    Raises:
        UserError: there is none.
    """
    if not Path(text).is_dir():
        raise UserError(f"{shorten_path(text)}: there is no such folder")
    if not (Path(text) / "annotations").is_dir():
        raise UserError(f"{shorten_path(text)} has no folder 'annotations'; `mdf prepare` makes a prepared folder")
    return text
