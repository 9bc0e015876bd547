"""Save and load models: Detectron2's checkpointer for this project's checkpoint files."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import Tensor, nn

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, CONTENTS_KEY, Checkpoint, save_checkpoint_file, signed
from mdf_detectron.checkpoint.contents import check_dataset
from mdf_detectron.checkpoint.published import open_weights
from mdf_detectron.checkpoint.transfer import clinical_signature, starting_weights
from mdf_detectron.config import without_paths
from mdf_detectron.errors import CheckpointError, shorten
from mdf_detectron.fileio import write_text
from mdf_detectron.modeling.meta_arch import build_model

_logger = logging.getLogger(__name__)


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

        What :func:`~mdf_detectron.checkpoint.transfer.starting_weights` chooses is taken, and logged in one line.

        Args:
            path: a file, the name of a zoo model, a URL of Detectron2's path manager, or an opened checkpoint.
            checkpointables: names of the states to load; None loads all.

        Raises:
            CheckpointError: the file cannot be opened, or none of its weights fits.
        """
        if not path:
            return super().load("", checkpointables)
        return self._load(path, checkpointables, whole=False)

    def _load(self, path: str | Path | Checkpoint, states: list[str] | None, whole: bool) -> dict[str, Any]:
        if not isinstance(path, Checkpoint):
            path = open_weights(self.path_manager.get_local_path(path) if "://" in str(path) else path)
        self._opened, self._whole = path, whole
        if whole:
            self._check_columns(path)
        return super(DetectionCheckpointer, self).load(str(path.path), states)

    def load_whole(self, path: str | Path | Checkpoint) -> None:
        """Load the complete model, and the states saved with it: :meth:`load` that allows no missing weight.

        Raises:
            CheckpointError: a weight is missing from the file or has another shape, or the columns of the model or the
                classes or columns of ``DATASETS.TEST`` differ from those of the training.
        """
        self._load(path, None, whole=True)
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
        """Refuse weights for other clinical columns."""
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
        if not self._whole:
            own = self.model.state_dict()
            checkpoint["model"], self._texts = starting_weights(self._opened, own, self.cfg, self.contents)
        self._incompatible = super()._load_model(checkpoint)
        return self._incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Say in one line what a training starts from; refuse weights of which none fits."""
        if self._whole:
            return super()._log_incompatible_keys(incompatible)
        shapes = [name for name, *_ in incompatible.incorrect_shapes]
        own = [name for name in self.model.state_dict() if not name.endswith("num_batches_tracked")]  # torch adds it
        absent, path = [name for name in incompatible.missing_keys if name not in shapes], self._opened.path
        taken = len(own) - len(absent) - len(shapes)
        if taken <= 0:
            raise CheckpointError(
                f"{path}: none of its {len(self._opened.weights)} weights fits the model: they are called "
                f"{shorten(list(self._opened.weights), 120)}, the model's {shorten(own, 120)}; name a model of this "
                "project, or the weights of a timm trunk by MODEL.TIMM.WEIGHTS_FILE"
            )
        for what, names in (("of another shape", shapes), ("not taken or not in the file", absent)):
            self._texts += [f"{len(names)} {what}, the first {names[0]}"] if names else []
        _logger.info(f"start: {taken} of {len(own)} weights from {'; '.join([str(path), *self._texts])}")


def load_model(cfg: CfgNode, checkpoint: str | Path | Checkpoint) -> nn.Module:
    """Build the config's model in evaluation mode with all weights of a checkpoint."""
    model = build_model(cfg)
    MultimodalCheckpointer(model, cfg=cfg).load_whole(checkpoint)
    return model.eval()
