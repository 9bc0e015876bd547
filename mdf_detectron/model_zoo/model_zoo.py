"""Names of the model zoo → config, verified weights and model, with the names and meanings of ``detectron2.model_zoo``.

``zoo.yaml`` has one entry a model: its config, the command that makes it, its results over several training seeds and,
for published weights, their file and its SHA-256. A file is looked for in the package, which ships one small model,
then below ``$MDF_MODEL_ZOO``, a folder or a base URL that iopath can read.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from detectron2.config import CfgNode
from iopath.common.file_io import HTTPURLHandler, PathManager
from pydantic import model_validator
from torch import nn

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.config_file import load_config
from mdf_detectron.errors import CheckpointError, ConfigError
from mdf_detectron.fileio import check_regular, find_config_file, read_yaml, sha256_of, shorten_path
from mdf_detectron.modeling.meta_arch import build_model
from mdf_detectron.validation import Strict, validated

ZOO_FOLDER = Path(__file__).resolve().parent
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


def read_zoo(path: str | Path = ZOO_FILE) -> dict[str, ZooEntry]:
    """Read the entries of a zoo file by the name of their config.

    Raises:
        ConfigError: not safe YAML, an entry that is not one, or two entries of one config.
    """
    entries = validated(_Zoo, read_yaml(path, ConfigError), str(path), ConfigError).models
    zoo = {entry.config: entry for entry in entries}
    if len(zoo) != len(entries):
        raise ConfigError(f"{path}: two entries have the same config")
    return zoo


def get_config_file(config_path: str) -> str:
    """Return the path of a config that ships with the package.

    Args:
        config_path: its name, for example "mimic_eye/mdf_net.yaml".

    Raises:
        ConfigError: no such config.
    """
    return str(find_config_file(config_path))


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """Return the config of a zoo model.

    Args:
        trained: set ``MODEL.WEIGHTS`` to the model's verified weights.
    """
    cfg = load_config(config_path)
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a zoo model in evaluation mode.

    Args:
        trained: load its verified weights; else it is randomly initialized, and its clinical statistics are not set.
        device: as of torch; by default the config's, or the CPU where there is no GPU.
    """
    cfg = get_config(config_path, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    elif cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return load_model(cfg, cfg.MODEL.WEIGHTS) if trained else build_model(cfg).eval()


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
