"""Published weights: the entries of ``model_zoo/zoo.yaml``, and their verified files.

An entry names a config, the command that makes the model, its results over several training seeds and, for published
weights, their file and its SHA-256. A file is looked for in the package, which ships one small model, then below
``$MDF_MODEL_ZOO``, a folder or a base URL that iopath can read.
"""

from __future__ import annotations

import os
from pathlib import Path

from iopath.common.file_io import HTTPURLHandler, PathManager
from pydantic import model_validator

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.errors import CheckpointError, ConfigError
from mdf_detectron.fileio import check_regular, read_yaml, shorten_path
from mdf_detectron.validation import Strict, validated

ZOO_FOLDER = Path(__file__).resolve().parents[1] / "model_zoo"
ZOO_FILE = ZOO_FOLDER / "zoo.yaml"
BASE_VARIABLE = "MDF_MODEL_ZOO"


class ZooEntry(Strict):
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
    seeds: list[int] = []
    results: dict[str, list[float]] = {}
    weights: str = ""
    sha256: str = ""

    @model_validator(mode="after")
    def _agree(self) -> ZooEntry:
        if bool(self.weights) != bool(self.sha256):
            raise ValueError(f"{self.config}: weights and sha256 go together")
        for metric, values in self.results.items():
            if len(values) != len(self.seeds):
                raise ValueError(f"{self.config}: {metric} needs one value for each seed {self.seeds}")
        return self

    @property
    def shipped(self) -> bool:
        """Whether the weights come with the package."""
        return bool(self.weights) and (ZOO_FOLDER / self.weights).is_file()


class _Zoo(Strict):
    models: list[ZooEntry]


def read_zoo() -> dict[str, ZooEntry]:
    """Read the entries of the zoo by the name of their config.

    Raises:
        ConfigError: not safe YAML, an entry that is not one, or two entries of one config.
    """
    entries = validated(_Zoo, read_yaml(ZOO_FILE, ConfigError), str(ZOO_FILE), ConfigError).models
    zoo = {entry.config: entry for entry in entries}
    if len(zoo) != len(entries):
        raise ConfigError(f"{ZOO_FILE}: two entries have the same config")
    return zoo


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
        return open_published(name)
    shipped = sorted(entry.config.removesuffix(".yaml") for entry in zoo.values() if entry.shipped)
    raise CheckpointError(
        f"no checkpoint at {shorten_path(weights)}; give a .pth file, or a model that the package ships: {shipped}"
    )


def open_published(config_path: str) -> Checkpoint:
    """Open the verified weights of a zoo model; those of a URL are cached.

    Args:
        config_path: name of its config.

    Raises:
        CheckpointError: no weights are published, the file cannot be had, or it is not the published one.
    """
    entry = read_zoo().get(config_path)
    if entry is None or not entry.weights:
        how = f"; this command makes them: {entry.command}" if entry else ""
        raise CheckpointError(f"no weights of '{config_path}' are published{how}")
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
    return Checkpoint.open(path, entry.sha256)
