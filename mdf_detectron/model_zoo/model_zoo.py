"""Names of the model zoo → config, weights and model, with the names and meanings of ``detectron2.model_zoo``.

``zoo.yaml`` beside this file has one entry a trained model: its config, its weights file and that file's SHA-256, its
results, and the command that made it. Weights are looked for below ``$MDF_MODEL_ZOO``, a folder or a base URL that
iopath can read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from iopath.common.file_io import HTTPURLHandler, PathManager
from torch import nn

from mdf_detectron.engine.build import build_model
from mdf_detectron.engine.checkpoint import MultimodalCheckpointer
from mdf_detectron.engine.defaults import find_config_file, load_config
from mdf_detectron.errors import CheckpointError, ConfigError
from mdf_detectron.fileio import read_yaml

ZOO_FILE = Path(__file__).with_name("zoo.yaml")
BASE_VARIABLE = "MDF_MODEL_ZOO"


@dataclass(frozen=True)
class ZooEntry:
    """A trained model.

    Attributes:
        config: name of its config.
        command: makes it.
        results: metric → value × 100 on the test split of ``data``.
        data: what it was trained and tested on.
        weights: path of its weights below the zoo's base; empty where none are published.
        sha256: of that file.
    """

    config: str
    command: str
    data: str
    results: dict[str, float] = field(default_factory=dict)
    weights: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if bool(self.weights) != bool(self.sha256):
            raise ConfigError(f"zoo entry of {self.config}: weights and sha256 go together")


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


def get_config_file(config_path: str) -> str:
    """Return the path of a config that ships with the package.

    Args:
        config_path: its name, for example "mimic_eye/mdf_net.yaml".

    Raises:
        ConfigError: no such config.
    """
    return str(find_config_file(config_path))


def get_checkpoint(config_path: str, base: str | None = None) -> str:
    """Return the local path of the verified weights of a zoo model; weights of a URL are cached.

    Args:
        config_path: name of its config.
        base: folder or URL; ``$MDF_MODEL_ZOO`` when None.

    Raises:
        CheckpointError: no weights are published, the file cannot be had, or it is not the published one.
    """
    entry = read_zoo().get(config_path)
    if entry is None or not entry.weights:
        how = f"; this command makes them: {entry.command}" if entry else ""
        raise CheckpointError(f"no weights of '{config_path}' are published{how}")
    base = base if base is not None else os.environ.get(BASE_VARIABLE, "")
    if not base:
        raise CheckpointError(f"{config_path}: set {BASE_VARIABLE} to the folder or URL that holds {entry.weights}")
    return _fetch_verified(f"{base.rstrip('/')}/{entry.weights}", entry.sha256)


def _fetch_verified(source: str, sha256: str) -> str:
    manager = PathManager()
    manager.register_handler(HTTPURLHandler())
    try:
        path = manager.get_local_path(source.removeprefix("file://"))
        with open(path, "rb") as file:
            digest = _sha256(file)
    except OSError as error:
        raise CheckpointError(f"{source}: the weights cannot be read ({error.strerror or error})") from None
    if digest != sha256:
        raise CheckpointError(f"{source} has SHA-256 {digest}, the zoo says {sha256}; remove it and download it again")
    return path


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


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
    model = build_model(cfg)
    if trained:
        MultimodalCheckpointer(model, cfg=cfg).load_whole(cfg.MODEL.WEIGHTS)
    return model.eval()
