"""Checkpoints: written atomically, read without executing code; weights of Detectron2's zoo converted to them."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.config import CfgNode
from torch import Tensor, nn

from mdf_detectron.checkpoint.array_pickle import load_arrays
from mdf_detectron.checkpoint.contents import (
    CONTENTS_KEY,
    DIGEST_KEY,
    TRAINING_DIGEST_KEY,
    check_dataset,
    digest,
    training_digest,
    verify,
)
from mdf_detectron.config import fuses_1d, fuses_3d
from mdf_detectron.errors import CheckpointError, UserError, short_text, shorten
from mdf_detectron.fileio import atomic_path, check_regular, shorten_path, write_text

CONFIG_KEY = "mdf_config"


SCHEMA_KEY = "clinical_schema"


def clinical_signature(cfg: CfgNode) -> dict[str, Any]:
    """What must agree between a checkpoint and a config: the columns in order and the vocabularies."""
    c = cfg.MODEL.CLINICAL
    if not (fuses_3d(cfg) or fuses_1d(cfg)):
        return {"numeric": [], "categorical": [], "vocabularies": []}
    return {
        "numeric": list(c.NUMERIC),
        "categorical": list(c.CATEGORICAL),
        "vocabularies": [list(v) for v in c.VOCABULARIES],
    }


class MultimodalCheckpointer(DetectionCheckpointer):
    """``DetectionCheckpointer`` whose files also hold the config (YAML) and the clinical columns.

    Args:
        cfg: the run's config.
        contents: of :mod:`~mdf_detectron.checkpoint.contents`, saved with the weights; None saves none.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        cfg: CfgNode,
        contents: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, save_dir, **kwargs)
        self.cfg = cfg
        self.contents = contents
        self._check: Callable[[dict[str, Any]], None] | None = None

    def save(self, name: str, *, tag_last: bool = True, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``: to a temporary file first, so that a file is whole or absent.

        Args:
            tag_last: a resumed run goes on from this file (not so for the best checkpoint).
            kwargs: further entries, ``iteration`` for one.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        data |= {CONFIG_KEY: self.cfg.dump(), SCHEMA_KEY: clinical_signature(self.cfg), **kwargs}
        if self.contents is not None:
            data[CONTENTS_KEY] = self.contents
        data[DIGEST_KEY] = digest(data)
        if self.checkpointables:
            data[TRAINING_DIGEST_KEY] = training_digest(data)
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {target}")
        save_checkpoint_file(data, target)
        if tag_last:
            self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the last checkpoint, atomically."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the parent's; an absent file is a :class:`CheckpointError`."""
        if path and "://" not in path and not os.path.isfile(path):
            raise CheckpointError(f"no checkpoint at {path}; MODEL.WEIGHTS names the file")
        return super().load(path, *args, **kwargs)

    def _torch_load(self, filename: str) -> dict[str, Any]:
        return load_checkpoint_file(filename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if not filename.endswith(".pth"):
            raise CheckpointError(
                f"{filename}: only .pth files are loaded, because loading .pkl or .pyth files can execute code; "
                "convert weights of Detectron2's zoo with tools/convert_zoo_weights.py"
            )
        loaded = super()._load_file(filename)
        self._loaded_contents = loaded.get(CONTENTS_KEY)
        saved = loaded.get(SCHEMA_KEY)
        wanted = clinical_signature(self.cfg)
        # a start that every model with a record may take
        image_only = isinstance(saved, dict) and not any(saved.values())
        if saved is not None and saved != wanted and not image_only:
            columns = [shorten(value) for value in (saved, wanted)]
            raise CheckpointError(
                f"{filename} was trained with the clinical columns {columns[0]}, the config asks for {columns[1]}; "
                "use the checkpoint's own config (config.yaml beside it) or another checkpoint"
            )
        if self._check is not None:
            self._check(loaded)
        return loaded

    def _load_model(self, checkpoint: Any) -> Any:
        self._incompatible = super()._load_model(checkpoint)
        return self._incompatible

    def resume(self, path: str, check: Callable[[dict[str, Any]], None]) -> None:
        """Take up the model and all that is saved with it.

        Args:
            check: raises for a file that is not to be taken up; called before anything of it is.

        Raises:
            CheckpointError: see :meth:`load_whole`, and what ``check`` raises.
        """
        self._check = check
        self.load(path)
        self._require_whole(path)

    def load_whole(self, path: str) -> None:
        """:meth:`load` for a model that is used as it is.

        Raises:
            CheckpointError: a part of the model is not in the file, or has another shape there; or the classes or
                columns of ``DATASETS.TEST`` mean something else than those that the model was trained on.
        """
        self.load(path)
        if self._loaded_contents is not None:
            for name in self.cfg.DATASETS.TEST:
                check_dataset(self._loaded_contents, name, path)
        self._require_whole(path)

    def _require_whole(self, path: str) -> None:
        absent = sorted(self._incompatible.missing_keys)
        shapes = [name for name, *_ in self._incompatible.incorrect_shapes]
        if absent or shapes:
            raise CheckpointError(
                f"{path} does not hold the whole model of this config: {len(absent)} weight(s) are absent "
                f"({', '.join(absent[:3])} …), {len(shapes)} of another shape ({', '.join(shapes[:3])} …); "
                "use the checkpoint's own config (config.yaml beside it)"
            )


def save_checkpoint_file(data: dict[str, Any], target: Path) -> None:
    """Write a ``.pth`` file atomically: it is whole or absent."""
    with atomic_path(target) as partial, open(partial, "wb") as file:  # of Python's: torch's own hides a full disk
        try:
            torch.save(data, file)
        except RuntimeError as error:  # what the archive's writer says once the file could not be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint_file(filename: str | Path) -> dict[str, Any]:
    """Read a ``.pth`` file on the CPU without executing code from it.

    Raises:
        CheckpointError: the file is damaged, holds objects other than tensors and plain values, weights that are not
            finite, or has another digest than the one stored in it.
    """
    check_regular(filename, CheckpointError)
    try:
        _check_not_packed(filename)
        return verify(torch.load(filename, map_location="cpu", weights_only=True), filename)
    except UserError:
        raise
    except Exception as error:  # torch's reader raises whatever a broken file leads to
        reason = short_text(ValueError((str(error).strip() or type(error).__name__).splitlines()[0]))
        raise CheckpointError(f"{filename} cannot be loaded safely: {reason}") from None


def _check_not_packed(filename: str | Path) -> None:
    """Refuse an archive with compressed entries, which torch never writes, and which may unpack to any size."""
    if not zipfile.is_zipfile(filename):
        return  # torch's format of before 1.6, or no checkpoint
    with zipfile.ZipFile(filename) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(
            f"{filename} is no checkpoint that torch wrote: its entry {shorten(packed[0])} is compressed"
        )


IMAGE_BACKBONE = "backbone.image_backbone."


def read_zoo_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.pkl`` file of the zoo under Detectron2's names.

    Three kinds are read: whole detectors, torchvision's ImageNet weights ("stem.conv1.weight" …), and MSRA's in
    Caffe2's names.

    Raises:
        CheckpointError: no such file, a damaged one, or one that holds anything but arrays and plain values.
    """
    if not os.path.exists(path):
        raise CheckpointError(f"no weights at {shorten_path(path)}")
    check_regular(path, CheckpointError)
    try:
        data = load_arrays(path)
    except Exception as error:  # what a broken pickle raises has no common class
        raise CheckpointError(f"{path} cannot be loaded safely: {short_text(error)}") from None
    of_detectron2 = isinstance(data, dict) and "model" in data and "__author__" in data
    weights = data["model"] if of_detectron2 else data.get("blobs", data) if isinstance(data, dict) else data
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} holds a {type(weights).__name__}, not a dict of weights")
    try:
        state = {
            name: torch.from_numpy(np.array(value))
            for name, value in weights.items()
            if isinstance(value, np.ndarray) and not name.endswith("_momentum")
        }
        if of_detectron2 and data["__author__"] != "Caffe2":
            return state
        return convert_c2_detectron_names(state)[0]
    except Exception as error:  # of names and shapes that no model of the zoo has
        raise CheckpointError(f"{path} does not hold weights of Detectron2's zoo: {short_text(error)}") from None


def for_dual_backbone(state: dict[str, Tensor], input_channels: int = 3) -> tuple[dict[str, Tensor], list[str]]:
    """Renamed for the image backbone of a ``DualBackbone``; detector parts keep their names.

    Args:
        state: of :func:`read_zoo_weights`.
        input_channels: 1 sums the first convolution over its three, which is the same function of a gray image.

    Returns:
        the weights, and the names that no model of this project has a place for (an ImageNet classifier, say).
    """
    out, dropped = {}, []
    for name, value in state.items():
        if re.match(r"(stem|res\d)\.", name):
            new = f"{IMAGE_BACKBONE}bottom_up.{name}"
        elif name.startswith("backbone."):
            new = IMAGE_BACKBONE + name.removeprefix("backbone.")
        elif name.startswith(("proposal_generator.", "roi_heads.", "head.")):
            new = name
        else:
            dropped.append(name)
            continue
        if input_channels == 1 and name.endswith("stem.conv1.weight"):
            if value.ndim != 4:
                raise CheckpointError(
                    f"the weight {name} has the shape {tuple(value.shape)}, a convolution's has four axes"
                )
            value = value.sum(dim=1, keepdim=True)
        out[new] = value
    return out, dropped
