"""Open checkpoints as objects: the file is read, verified and hashed once, then the object is passed around.

A training's ``.pth`` file holds these entries; a published model's holds the first four:

======================  ================================================================================
``model``               the weights
``mdf_config``          the config, as YAML
``contents``            everything else needed to use the model (:mod:`~mdf_detectron.checkpoint.contents`)
``sha256``              digest of weights, config and contents
``trainer, iteration``  states of optimizer, schedule and hooks
``training_sha256``     digest of these states
======================  ================================================================================

Files of other programs may hold weights only; a training can start from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from mdf_detectron.checkpoint.contents import checked_contents
from mdf_detectron.config_checks import check_config
from mdf_detectron.config_file import get_mdf_cfg, merge
from mdf_detectron.errors import CheckpointError, ConfigError, UserError, short_text, shorten
from mdf_detectron.fileio import atomic_path, check_regular, sha256_of, shorten_path
from mdf_detectron.guarded_yaml import parse_yaml

CONFIG_KEY, CONTENTS_KEY = "mdf_config", "contents"
DIGEST_KEY, TRAINING_DIGEST_KEY = "sha256", "training_sha256"


class Checkpoint:
    """An opened checkpoint; ``data`` holds all entries of the file, verified by :meth:`open`: do not change them."""

    def __init__(self, path: str | Path, data: Mapping[str, Any]):
        self.path, self.data = Path(path), data

    @classmethod
    def open(cls, path: str | Path, sha256: str = "") -> Checkpoint:
        """Read a ``.pth`` file to the CPU without executing code from it, and verify its content.

        Args:
            sha256: expected digest of the whole file; empty accepts any.

        Raises:
            CheckpointError: the file is missing or damaged, holds objects other than tensors and plain values or
                weights that are not finite, or does not match its digests.
        """
        if not os.path.exists(path):
            raise CheckpointError(f"no checkpoint at {shorten_path(path)}")
        check_regular(path, CheckpointError)
        if Path(path).suffix != ".pth":
            raise CheckpointError(f"{path}: only .pth files are loaded; other kinds (.pkl, .pyth) can execute code")
        try:
            with open(path, "rb") as file:
                if sha256 and (found := sha256_of(file)) != sha256:
                    raise CheckpointError(f"{path} has SHA-256 {found}, not {sha256}; remove it and download it again")
                _refuse_unbounded(file, path)
                data = torch.load(file, map_location="cpu", weights_only=True)
            return cls(path, _verified(data, path))
        except UserError:
            raise
        except Exception as error:  # torch's reader raises anything on a broken file
            reason = short_text(ValueError((str(error).strip() or type(error).__name__).splitlines()[0]))
            raise CheckpointError(f"{path} cannot be loaded safely: {reason}") from None

    @property
    def weights(self) -> dict[str, Tensor]:
        """State dict of the model."""
        return self.data["model"]

    @property
    def digest(self) -> str:
        """SHA-256 of weights, config and contents."""
        return self._entry(DIGEST_KEY, str, "digest")

    @cached_property
    def contents(self) -> dict[str, Any]:
        """Checked :class:`~mdf_detectron.checkpoint.contents.Contents` as a dict; raises ``CheckpointError``."""
        return checked_contents(self._entry(CONTENTS_KEY, dict, "contents (classes, units and ranges)"), self.path)

    @cached_property
    def saved_cfg(self) -> CfgNode:
        """Config of the training, with its paths and data sets; ``CheckpointError`` if this version cannot read it."""
        text = self._entry(CONFIG_KEY, str, "config")
        cfg = get_mdf_cfg()
        try:
            values = parse_yaml(text, "its config", ConfigError)
            values = values if isinstance(values, dict) else {"": values}
            values.pop("TRACKERS", None)  # a key of earlier versions, for the training alone
            merge(cfg, values, "its config")
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: cannot be used by this version: {error}") from None
        return cfg

    @property
    def cfg(self) -> CfgNode:
        """Config for inference: a new copy of ``saved_cfg`` without data sets and the training machine's settings."""
        cfg = self.saved_cfg.clone()
        cfg.MODEL.WEIGHTS, cfg.MODEL.TIMM.WEIGHTS_FILE, cfg.MODEL.TIMM.PRETRAINED = "", "", False
        cfg.DATASETS.TRAIN, cfg.DATASETS.VAL, cfg.DATASETS.TEST = (), (), ()
        cfg.VALIDATION.PATIENCE = 0  # check_config refuses it without a validation split
        cfg.SOLVER.AMP.ENABLED &= torch.cuda.is_available()  # ... and this one without a GPU
        check_config(cfg)
        return cfg

    def _entry(self, key: str, kind: type, what: str) -> Any:
        value = self.data.get(key)
        if not isinstance(value, kind):
            raise CheckpointError(
                f"{self.path}: holds no {what}; name a .pth file that a training or `mdf publish` of this project wrote"
            )
        return value


def signed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's entries with their digests added."""
    data = {**data, DIGEST_KEY: digest(data)}
    return {**data, TRAINING_DIGEST_KEY: training_digest(data)} if "trainer" in data else data


def save_checkpoint_file(data: dict[str, Any], target: Path) -> None:
    """Write a ``.pth`` file atomically."""
    with atomic_path(target) as partial, open(partial, "wb") as file:  # torch's own file object hides a full disk
        try:
            torch.save(data, file)
        except RuntimeError as error:  # the archive writer's follow-up to a failed write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def digest(data: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a checkpoint's weights, config and contents."""
    sha = hashlib.sha256()
    for name, tensor in sorted(data["model"].items()):
        _add_tensor(sha, name, tensor)
    rest = {key: data.get(key) for key in (CONFIG_KEY, CONTENTS_KEY)}
    sha.update(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode())
    return sha.hexdigest()


def training_digest(data: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a checkpoint's optimizer, schedule and hook states."""
    sha = hashlib.sha256()
    _add(sha, "", {key: data.get(key) for key in ("trainer", "iteration")})
    return sha.hexdigest()


def _add(sha: hashlib._Hash, name: str, value: Any) -> None:
    """Hash nested dicts, lists, tensors and plain values, each with its path."""
    if isinstance(value, Tensor):
        _add_tensor(sha, name, value)
    elif isinstance(value, Mapping):
        for key, entry in sorted(value.items(), key=lambda item: str(item[0])):
            _add(sha, f"{name}/{key}", entry)
    elif isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            _add(sha, f"{name}/{number}", entry)
    else:
        sha.update(f"{name} {value!r}\n".encode())


def _add_tensor(sha: hashlib._Hash, name: str, tensor: Tensor) -> None:
    if problem := _weight_problem(name, tensor):
        raise ValueError(f"the state {shorten(name)} {problem}")
    tensor = tensor.detach().cpu().contiguous()
    sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    sha.update(tensor.reshape(-1).view(torch.uint8).numpy())


def _refuse_unbounded(file: IO[bytes], path: str | Path) -> None:
    """Refuse what may ask for any memory: formats before zip archives, and compressed entries (torch writes none)."""
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise ValueError("it is not a zip archive, as torch.save writes; save it again with torch.save")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise CheckpointError(f"{path} was not written by torch: its entry {shorten(packed[0])} is compressed")
    file.seek(0)


def _verified(data: Any, path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's entries after checking its digests and weights."""
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not a checkpoint; name a .pth of this project")
    inner = [
        key for key, one in data.items() if isinstance(one, dict) and any(isinstance(v, Tensor) for v in one.values())
    ]
    if inner and "model" not in data:
        whose = "PyTorch Lightning" if "pytorch-lightning_version" in data else "another program"
        text = f"a checkpoint of {whose}, with its weights under {shorten(inner[0])}"
        raise CheckpointError(f"{path}: {text}; name a .pth of this project")
    data = data if "model" in data else {"model": data}  # a bare state dict
    state = data["model"]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: its weights are {shorten(state)}, no dict; name a .pth of this project")
    for name, value in state.items():
        if problem := _weight_problem(name, value):
            raise CheckpointError(f"{path}: the weight {shorten(name)} {problem}; name a .pth of this project")
    ours = bool({CONFIG_KEY, CONTENTS_KEY, DIGEST_KEY, TRAINING_DIGEST_KEY} & set(data))
    needed = {DIGEST_KEY: ours, TRAINING_DIGEST_KEY: ours and "trainer" in data}
    for key, compute in ((DIGEST_KEY, digest), (TRAINING_DIGEST_KEY, training_digest)):
        if (needed[key] or key in data) and data.get(key) != compute(data):
            raise CheckpointError(f"{path} is damaged or was edited: its SHA-256 is not the stored one; copy it again")
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: the weight {name} is not finite; the training diverged or it is damaged")
    return data


def _weight_problem(name: Any, value: Any) -> str:
    """Describe why a weight cannot be hashed; "" if it can."""
    if not isinstance(name, str):
        return "has no text for a name"
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, no tensor"
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        return f"is a tensor of another kind ({value.layout}, {value.dtype}, {value.device})"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # a copy would allocate all elements
        return f"of the shape {shorten(tuple(value.shape))} has more elements than the file holds"
    return ""
