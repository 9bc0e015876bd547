"""Check names, files and folders of the command line before heavy imports; an error is one line."""

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from mdf_detectron.errors import CheckpointError, ConfigError, DatasetError, UserError, find_doubled, shorten
from mdf_detectron.fileio import check_regular, find_config_file, shorten_path


def check_name(name: str, names: Collection[str], what: str) -> None:
    """Check that a word is one of ``names``; the error begins with ``what`` and suggests the nearest name or all."""
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
        raise UserError(f"{what} {shorten(name)}; {hint}")


def listing(helps: Mapping[str, str]) -> list[str]:
    """Format names and their help texts as indented lines."""
    width = max(map(len, helps))
    return [f"  {name:<{width}}  {text}" for name, text in helps.items()]


def add_model_arguments(parser: argparse.ArgumentParser, *, force: bool = False) -> None:
    """Add the arguments of a ``Predictor``: --threshold, --device, and with ``force`` also --force and --half."""
    add = parser.add_argument
    add("--threshold", type=float, help="operating threshold (default: the checkpoint's, else 0.5)")
    add("--device", choices=("cpu", "cuda"), help="(default: a GPU where there is one)")
    if force:
        add("--force", action="store_true", help="predict from DICOM files of another modality too")
        add("--half", action=argparse.BooleanOptionalAction,
            help="on a GPU: run the model in float16 (default: as it was trained)")  # fmt: skip


def existing_file(text: str) -> str:
    """Accept the path of a regular file, as an argument's ``type``."""
    check_regular(text, UserError)
    return text


def existing_path(text: str) -> Path:
    """Accept the path of a file or folder, as an argument's ``type``."""
    return Path(text) if os.path.isdir(text) else Path(existing_file(text))


def checkpoint_file(text: str) -> str:
    """Accept the path of a checkpoint or the name of a zoo model, as an argument's ``type``."""
    if os.path.isfile(text):
        return text
    try:
        find_config_file(f"{text.removesuffix('.yaml')}.yaml")
    except ConfigError:
        raise CheckpointError(
            f"no checkpoint at {shorten_path(text)}; give a .pth file, or a model of the zoo such as "
            "synthetic_cxr/logit_fusion, which ships with the package"
        ) from None
    return text


def config_file(text: str) -> str:
    """Accept the path of a config file or the name of a config of the package, as an argument's ``type``."""
    try:
        return str(find_config_file(text))
    except ConfigError as error:  # a ValueError, which argparse would replace by its own message
        raise UserError(error) from None


def prepared_folder(text: str) -> str:
    """Accept the path of a prepared folder, as an argument's ``type``."""
    from mdf_detectron.data.prepared import check_prepared

    try:
        return str(check_prepared(text))
    except DatasetError as error:  # a ValueError too
        raise UserError(error) from None


def parse_pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Split NAME=VALUE words; raise ``DatasetError`` without "=" or for a repeated name."""
    parts = [word.partition("=") for word in words]
    for word, (name, equals, _) in zip(words, parts, strict=True):
        if not equals or not name.strip():
            raise DatasetError(f"{option} {shorten(word)}: expected NAME=VALUE")
    names = [name.strip() for name, _, _ in parts]
    if doubled := find_doubled(names):
        raise DatasetError(f"{option}: {doubled} given twice")
    return {name: value.strip() for name, (_, _, value) in zip(names, parts, strict=True)}
