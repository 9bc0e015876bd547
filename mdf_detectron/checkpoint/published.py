"""Read the model zoo (``model_zoo/zoo.yaml``) and open its published weights.

Weights are taken from the package, which ships one small model, else from ``$MDF_MODEL_ZOO``: a folder, or a base URL
that iopath can read.
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
    """A model of the zoo.

    Attributes:
        config: name of its config.
        command: the command that trains it, for each of ``seeds``.
        data: what it was trained and tested on.
        results: metric → one value × 100 per seed, on the test split of ``data``.
        weights: relative path of one seed's weights; empty if none are published.
        sha256: digest of that file.
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
        """Whether the package contains the weights."""
        return bool(self.weights) and (ZOO_FOLDER / self.weights).is_file()


class _Zoo(Strict):
    models: list[ZooEntry]


def read_zoo() -> dict[str, ZooEntry]:
    """Read the zoo: config name → entry."""
    entries = validated(_Zoo, read_yaml(ZOO_FILE, ConfigError), str(ZOO_FILE), ConfigError).models
    zoo = {entry.config: entry for entry in entries}
    if len(zoo) != len(entries):
        raise ConfigError(f"{ZOO_FILE}: two entries have the same config")
    return zoo


def open_weights(weights: str | Path) -> Checkpoint:
    """Open a checkpoint file, or the weights of a zoo model such as "synthetic_cxr/logit_fusion".

    Raises:
        CheckpointError: neither exists, or the file cannot be used.
    """
    if os.path.isfile(weights):  # accepts names that are too long for a file
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
    """Open the weights of the zoo model of a config, verified by SHA-256; downloads are cached.

    Raises:
        CheckpointError: no weights are published, or the file cannot be read or is not the published one.
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
