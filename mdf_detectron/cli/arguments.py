"""Types of arguments that commands share: a missing file or folder is one line, before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from mdf_detectron.errors import ConfigError, UserError
from mdf_detectron.fileio import check_regular, find_config_file, shorten_path


def existing_file(text: str) -> str:
    """Accept the path of a regular file, as the ``type`` of an argument.

    Raises:
        UserError: there is none.
    """
    check_regular(text, UserError)
    return text


def config_file(text: str) -> str:
    """Accept the path of a config file, or the name of one that ships with the package, as an argument's ``type``.

    Raises:
        UserError: there is none.
    """
    try:
        return str(find_config_file(text))
    except ConfigError as error:  # argparse takes a ValueError for one of its own
        raise UserError(error) from None


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
