"""Types of arguments that commands share: a missing file or folder is one line, before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path

from mdf_detectron.errors import CheckpointError, ConfigError, UserError
from mdf_detectron.fileio import check_regular, find_config_file, shorten_path


def existing_file(text: str) -> str:
    """Accept the path of a regular file, as the ``type`` of an argument.

    Raises:
        UserError: there is none.
    """
    check_regular(text, UserError)
    return text


def existing_path(text: str) -> Path:
    """Accept the path of a file or folder, as the ``type`` of an argument.

    Raises:
        UserError: there is none.
    """
    return Path(text) if os.path.isdir(text) else Path(existing_file(text))


def checkpoint_file(text: str) -> str:
    """Accept the path of a checkpoint, or the name of a zoo model, as the ``type`` of an argument.

    Raises:
        CheckpointError: there is neither.
    """
    if os.path.isfile(text):
        return text
    try:
        find_config_file(f"{text.removesuffix('.yaml')}.yaml")
    except ConfigError:
        raise CheckpointError(
            f"no checkpoint at {shorten_path(text)}; give a .pth file, or a model of the zoo such as "
            "synthetic_cxr/mdf_net_compact, which ships with the package"
        ) from None
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
