"""Entries of the model zoo, and their verified weights.

``model_zoo/zoo.yaml`` has one entry a model: its config, the command that makes it, its results over several training
seeds and, for published weights, their file and its SHA-256. A file is looked for in the package, which ships one small
model, then below ``$MDF_MODEL_ZOO``, a folder or a base URL that iopath can read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iopath.common.file_io import HTTPURLHandler, PathManager

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.errors import CheckpointError, ConfigError
from mdf_detectron.fileio import check_regular, read_yaml, sha256_of, shorten_path

ZOO_FOLDER = Path(__file__).resolve().parents[1] / "model_zoo"
ZOO_FILE = ZOO_FOLDER / "zoo.yaml"
BASE_VARIABLE = "MDF_MODEL_ZOO"


@dataclass(frozen=True)
class ZooEntry:
    """A model.

    Attributes:
        config: name of its config.
        command: makes it, for each of ``seeds``.
        data: what it was trained and tested on.
        seeds: of the trainings.
        results: metric → its value × 100 on the test split of ``data``, one a seed.
        weights: path of the weights of one of the trainings, below the package's zoo or the zoo's base; empty where
            none are published.
        sha256: of that file.
    """

    config: str
    command: str
    data: str
    seeds: Sequence[int] = ()
    results: Mapping[str, Sequence[float]] = field(default_factory=dict)
    weights: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if bool(self.weights) != bool(self.sha256):
            raise ConfigError(f"zoo entry of {self.config}: weights and sha256 go together")
        for metric, values in self.results.items():
            if not isinstance(values, list) or len(values) != len(self.seeds):
                raise ConfigError(f"zoo entry of {self.config}: {metric} needs one value for each seed {self.seeds}")

    @property
    def shipped(self) -> bool:
        """Whether the weights come with the package."""
        return bool(self.weights) and (ZOO_FOLDER / self.weights).is_file()


def read_zoo(path: str | Path = ZOO_FILE) -> dict[str, ZooEntry]:
    """Read the entries of a zoo file by the name of their config.

    Raises:
        ConfigError: not safe YAML, an unknown key, or two entries of one config.
    """
    try:
        entries = [ZooEntry(**entry) for entry in read_yaml(path, ConfigError)["models"]]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a zoo file with a list 'models' of entries: {error}") from None
    zoo = {entry.config: entry for entry in entries}
    if len(zoo) != len(entries):
        raise ConfigError(f"{path}: two entries have the same config")
    return zoo


def get_checkpoint(config_path: str, base: str | None = None) -> str:
    """Return the local path of the verified weights of a zoo model; weights of a URL are cached.

    Args:
        config_path: name of its config.
        base: folder or URL; by default the package for weights that it ships, else ``$MDF_MODEL_ZOO``.

    Raises:
        CheckpointError: no weights are published, the file cannot be had, or it is not the published one.
    """
    path, sha256 = _published(config_path, base)
    if (found := sha256_of(path)) != sha256:
        raise CheckpointError(f"{path} has SHA-256 {found}, not {sha256}; remove it and download it again")
    return path


def open_weights(weights: str | Path) -> Checkpoint:
    """Open a checkpoint file, or the weights of a zoo model, "synthetic_cxr/mdf_net_compact" say.

    Raises:
        CheckpointError: there is neither such a file nor such weights, or it cannot be used.
    """
    if os.path.isfile(weights):  # also of a name too long for a file
        return Checkpoint.open(weights)
    zoo = read_zoo()
    name = str(weights).removesuffix(".yaml") + ".yaml"
    if name in zoo:
        return Checkpoint.open(*_published(name))
    shipped = sorted(entry.config.removesuffix(".yaml") for entry in zoo.values() if entry.shipped)
    raise CheckpointError(
        f"no checkpoint at {shorten_path(weights)}; give a .pth file, or a model that the package ships: {shipped}"
    )


def _published(config_path: str, base: str | None = None) -> tuple[str, str]:
    """Return the local path of a zoo model's weights, and the SHA-256 that they must have."""
    entry = read_zoo().get(config_path)
    if entry is None or not entry.weights:
        how = f"; this command makes them: {entry.command}" if entry else ""
        raise CheckpointError(f"no weights of '{config_path}' are published{how}")
    if base is None:
        base = str(ZOO_FOLDER) if entry.shipped else os.environ.get(BASE_VARIABLE, "")
    if not base:
        raise CheckpointError(f"{config_path}: set {BASE_VARIABLE} to the folder or URL that holds {entry.weights}")
    source = f"{base.rstrip('/')}/{entry.weights}".removeprefix("file://")
    manager = PathManager()
    manager.register_handler(HTTPURLHandler())
    try:
        path = manager.get_local_path(source)
        check_regular(path, CheckpointError)
    except OSError as error:
        raise CheckpointError(f"{source}: the weights cannot be read ({error.strerror or error})") from None
    return path, entry.sha256
