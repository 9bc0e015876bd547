"""Save and load models: Detectron2's checkpointer for this project's checkpoint files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import Tensor, nn

from mdf_detectron.checkpoint.checkpoint import (
    CONFIG_KEY,
    CONTENTS_KEY,
    Checkpoint,
    save_checkpoint_file,
    signed,
)
from mdf_detectron.checkpoint.contents import check_dataset
from mdf_detectron.config import reads_record, without_paths
from mdf_detectron.errors import CheckpointError, shorten
from mdf_detectron.fileio import write_text
from mdf_detectron.modeling.meta_arch import build_model


class MultimodalCheckpointer(DetectionCheckpointer):
    """``DetectionCheckpointer`` whose files are sufficient to use a model.

    Args:
        cfg: the run's config, saved with the weights.
        contents: see :mod:`~mdf_detectron.checkpoint.contents`; None saves none.
        weights: returns the weights to save; None, or what returns None: the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        cfg: CfgNode,
        contents: dict[str, Any] | None = None,
        weights: Callable[[], dict[str, Tensor] | None] = lambda: None,
        **kwargs: Any,
    ):
        super().__init__(model, save_dir, **kwargs)
        self.cfg = cfg
        self.contents, self.weights = contents, weights

    def save(self, name: str, *, tag_last: bool = True, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` atomically.

        Args:
            tag_last: make a resumed run continue from this file; False for the best checkpoint.
            kwargs: further entries, such as ``iteration``.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        weights, cfg = self.weights() or self.model.state_dict(), without_paths(self.cfg)
        data = {"model": weights, CONFIG_KEY: cfg.dump(), **kwargs}
        data |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        if self.contents is not None:
            data[CONTENTS_KEY] = self.contents
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {target}")
        save_checkpoint_file(signed(data), target)
        if tag_last:
            self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the last checkpoint's name atomically."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load(self, path: str | Path | Checkpoint, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights to start from, and the states saved with them; an empty path loads nothing.

        Args:
            path: a file, a URL of Detectron2's path manager, or an opened checkpoint.
            checkpointables: names of the states to load; None loads all.

        Raises:
            CheckpointError: the file cannot be opened, or its model reads other clinical columns.
        """
        if not path:
            return super().load("", checkpointables)
        if not isinstance(path, Checkpoint):
            path = Checkpoint.open(self.path_manager.get_local_path(path) if "://" in str(path) else path)
        self._opened = path
        self._check_columns(path)
        return super(DetectionCheckpointer, self).load(str(path.path), checkpointables)

    def load_whole(self, path: str | Path | Checkpoint) -> None:
        """Load the complete model, and the states saved with it: :meth:`load` that allows no missing weight.

        Raises:
            CheckpointError: a weight is missing from the file or has another shape, or the classes or columns of
                ``DATASETS.TEST`` differ from those of the training.
        """
        self.load(path)
        if CONTENTS_KEY in self._opened.data:
            for name in self.cfg.DATASETS.TEST:
                check_dataset(self._opened.contents, name, self._opened.path)
        absent = sorted(self._incompatible.missing_keys)
        shapes = [name for name, *_ in self._incompatible.incorrect_shapes]
        if absent or shapes:
            raise CheckpointError(
                f"{self._opened.path} does not hold the whole model of this config: {len(absent)} weight(s) are absent "
                f"({', '.join(absent[:3])} …), {len(shapes)} of another shape ({', '.join(shapes[:3])} …); "
                "use the checkpoint's own config (config.yaml next to it)"
            )

    def _check_columns(self, checkpoint: Checkpoint) -> None:
        """Refuse weights for other clinical columns; image-only weights may start a model that reads a record."""
        if CONFIG_KEY not in checkpoint.data:
            return
        saved, wanted = clinical_signature(checkpoint.saved_cfg), clinical_signature(self.cfg)
        if saved != wanted and any(saved.values()):
            raise CheckpointError(
                f"{checkpoint.path} was trained with the clinical columns {shorten(saved)}, the config asks for "
                f"{shorten(wanted)}; use the checkpoint's own config (config.yaml next to it) or another checkpoint"
            )

    def _load_file(self, filename: str) -> dict[str, Any]:
        return {**self._opened.data, "model": dict(self._opened.weights)}  # copied, as the parent removes what it loads

    def _load_model(self, checkpoint: Any) -> Any:
        self._incompatible = super()._load_model(checkpoint)
        return self._incompatible


def load_model(cfg: CfgNode, checkpoint: str | Path | Checkpoint) -> nn.Module:
    """Build the config's model in evaluation mode with all weights of a checkpoint."""
    model = build_model(cfg)
    MultimodalCheckpointer(model, cfg=cfg).load_whole(checkpoint)
    return model.eval()


def clinical_signature(cfg: CfgNode) -> dict[str, Any]:
    """Return what a checkpoint and a config must have in common: the columns in order and the vocabularies."""
    c = cfg.MODEL.CLINICAL
    if not reads_record(cfg):
        return {"numeric": [], "categorical": [], "vocabularies": []}
    return {
        "numeric": list(c.NUMERIC),
        "categorical": list(c.CATEGORICAL),
        "vocabularies": [list(v) for v in c.VOCABULARIES],
    }
