"""Manage a training's folder: one run at a time, never files of two runs mixed, strict resuming.

A training continues only from a complete checkpoint of the same config and data.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from mdf_detectron.checkpoint.checkpoint import TRAINING_DIGEST_KEY, Checkpoint
from mdf_detectron.config import flat_config, without_paths
from mdf_detectron.errors import CheckpointError, ConfigError, shorten
from mdf_detectron.fileio import remove_partial_files, shorten_path
from mdf_detectron.locks import FolderLock

METRICS_FILE_NAME = "metrics.json"
LAST_CHECKPOINT_FILE_NAME = "last_checkpoint"
FINAL_CHECKPOINT = "model_final"
ARCHIVE = "previous_runs"
_OF_A_RUN = (LAST_CHECKPOINT_FILE_NAME, "*.pth", METRICS_FILE_NAME, "validation_history.json")
"""Files that only a training writes; the first is moved first, so that a partly moved run is never resumed."""
_MORE_FILES = ("results.json", "events.out.tfevents.*", "config.yaml", "log.txt*", "inference")
_NUMBERED = re.compile(r"model_(\d{7})\.pth")

FREE_KEYS = (
    "OUTPUT_DIR", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK", "DETERMINISTIC", "MODEL.WEIGHTS", "MODEL.DEVICE",
    "DATASETS.TEST", "DATASETS.VAL", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "DATALOADER.NUM_WORKERS",
    "DATALOADER.DECODED_CACHE", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "TEST.", "VALIDATION.",
    "CLINICAL_DIAGNOSTICS.",
)  # fmt: skip
"""Prefixes of config keys that a resumed run may change: where and how fast a training runs, what it measures, and how
long it is (from then on the schedule follows the new ``MAX_ITER`` and ``STEPS``)."""

_SHOWN = 4

logger = logging.getLogger(__name__)


@contextmanager
def lock_output_dir(cfg: CfgNode, *, fresh: bool, resume: bool = False) -> Iterator[None]:
    """Lock ``OUTPUT_DIR`` for a training or evaluation, and remove partial files of killed runs.

    Args:
        fresh: a training starts; move an earlier run aside, see :func:`archive_previous_run`.
        resume: move it aside only if it has no checkpoint to continue from.

    Raises:
        FolderInUseError: another run is writing to the folder.
        ConfigError: ``MODEL.WEIGHTS`` is one of the files that would be moved.
    """
    folder = Path(cfg.OUTPUT_DIR)
    with FolderLock(folder):
        inference = folder / "inference"
        remove_partial_files(folder, inference, *inference.glob("*"))  # other subfolders may belong to other runs
        if fresh and not (resume and checkpoint_to_resume(folder)):
            if cfg.MODEL.WEIGHTS and Path(cfg.MODEL.WEIGHTS).resolve().parent == folder.resolve():
                raise ConfigError(
                    f"MODEL.WEIGHTS {shorten_path(cfg.MODEL.WEIGHTS)} lies in OUTPUT_DIR, whose run a new training "
                    "moves aside; name another OUTPUT_DIR"
                )
            archive_previous_run(folder)
        yield


def archive_previous_run(folder: str | Path) -> Path | None:
    """Move an earlier run's files to ``<folder>/previous_runs/<number>`` and return that; None if there was no run."""
    folder = Path(folder)
    if not any(any(folder.glob(pattern)) for pattern in _OF_A_RUN):
        return None
    files = [file for pattern in (*_OF_A_RUN, *_MORE_FILES) for file in sorted(folder.glob(pattern))]
    numbers = [int(p.name) for p in (folder / ARCHIVE).glob("*") if p.name.isdigit()]
    target = folder / ARCHIVE / str(max(numbers, default=0) + 1)
    target.mkdir(parents=True)
    for file in files:
        file.rename(target / file.name)
    logger.warning("%s held an earlier run: its files are now in %s", folder, target)
    return target


def checkpoint_to_resume(folder: str | Path) -> Path | None:
    """Find the checkpoint to continue from: the one that ``last_checkpoint`` names, else the latest, else None.

    A run that was killed right after its first checkpoint may lack ``last_checkpoint``; one that names no file is a
    ``CheckpointError``.
    """
    folder = Path(folder)
    named = folder / LAST_CHECKPOINT_FILE_NAME
    if named.is_file():
        path = folder / named.read_text(encoding="utf-8", errors="replace").strip()
        if not path.is_file():
            raise CheckpointError(
                f"{shorten_path(named)} names {path.name!r}, which is not there; write the name of a checkpoint of the "
                "folder into it"
            )
        return path
    numbered = [path for path in folder.glob("model_*.pth") if _NUMBERED.fullmatch(path.name)]
    return max(numbered, key=lambda path: path.name, default=None)


def cut_log(path: str | Path, iteration: int) -> int:
    """Remove from a log (one JSON object per line) everything from ``iteration`` on, and an unfinished line.

    ``iteration`` is the resumed run's first; it logs again what a killed run logged after its checkpoint. Return the
    last iteration kept, -1 if there is none.
    """
    path = Path(path)
    if not path.is_file():
        return -1
    kept, last = 0, -1
    with open(path, "rb") as file:
        for line in file:
            found = _iteration(line)
            if not line.endswith(b"\n") or found is None or found >= iteration:
                break
            kept, last = kept + len(line), max(last, found)
    if path.stat().st_size != kept:
        os.truncate(path, kept)
    return last


def _iteration(line: bytes) -> int | None:
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return None


def differing_keys(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return "KEY: saved value → value now" for each key that differs and is not in :data:`FREE_KEYS`."""
    there, here = flat_config(saved), flat_config(now)
    return [
        f"{key}: {shorten(there.get(key), 40)} → {shorten(here.get(key), 40)}"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key) and not key.startswith(FREE_KEYS)
    ]


def check_resumable(checkpoint: Checkpoint, trainer: Any) -> None:
    """Refuse a checkpoint from which a trainer cannot continue as if it had never stopped.

    Raises:
        CheckpointError: it has another config, other training data or no training state, or its optimizer state does
            not fit the parameters or is not finite.
    """
    where = shorten_path(checkpoint.path)
    differ = differing_keys(checkpoint.saved_cfg, without_paths(trainer.cfg))
    if differ:
        more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise CheckpointError(
            f"{where} was trained with another config: {'; '.join(differ[:_SHOWN])}{more}. Resume with the config.yaml "
            "next to it, or start another training from its weights (MODEL.WEIGHTS, another OUTPUT_DIR)"
        )
    _check_data(checkpoint.contents, trainer.checkpointer.contents, where)
    state = checkpoint.data.get("trainer") if TRAINING_DIGEST_KEY in checkpoint.data else None
    if not isinstance(state, dict) or not isinstance(state.get("_trainer"), dict) or "iteration" not in state:
        raise CheckpointError(
            f"{where} holds weights only, no state of a training; start one from it: MODEL.WEIGHTS and no --resume"
        )
    _check_optimizer(state["_trainer"].get("optimizer"), trainer._trainer.optimizer, where)


def _check_data(saved: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    pairs = {key: (saved.get(key), now.get(key)) for key in ("class_names", "category_ids", "schema", "columns")}
    first, second = saved["training"], now["training"]
    pairs |= {f"training {key}": (first.get(key), second.get(key)) for key in ("images", "patients", "columns")}
    for name, (there, here) in pairs.items():
        if json.dumps(there, sort_keys=True) != json.dumps(here, sort_keys=True):
            raise CheckpointError(
                f"{where} was trained on other data: {name} {shorten(there)} → {shorten(here)}; prepare the same data "
                "again, or start another training from its weights (MODEL.WEIGHTS, another OUTPUT_DIR)"
            )


def _check_optimizer(state: Any, optimizer: torch.optim.Optimizer, where: str) -> None:
    """Refuse an optimizer state whose shapes differ from the parameters' or that is not finite."""
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if groups is None or [len(group["params"]) for group in groups] != sizes:
        raise CheckpointError(f"{where}: its optimizer holds other parameters than the model of this config has")
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    for number, shape in zip(numbers, shapes, strict=True):
        for name, value in state["state"].get(number, {}).items():
            if not isinstance(value, torch.Tensor):
                continue
            if value.dim() and value.shape != shape:
                raise CheckpointError(
                    f"{where}: {name} of parameter {number} has the shape {tuple(value.shape)}, its parameter "
                    f"{tuple(shape)}; the file belongs to another model"
                )
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise CheckpointError(
                    f"{where}: {name} of parameter {number} is not finite; the training diverged, continue from an "
                    "earlier checkpoint (last_checkpoint names it)"
                )


def is_finished(cfg: CfgNode, results_file_name: str) -> bool:
    """Tell whether ``OUTPUT_DIR`` holds a finished training (final checkpoint and results); if so, print it.

    A training that stopped early is finished, too, unless ``SOLVER.MAX_ITER`` has changed since.
    """
    last = checkpoint_to_resume(cfg.OUTPUT_DIR)
    if last is None or last.stem != FINAL_CHECKPOINT:
        return False
    results = Path(cfg.OUTPUT_DIR) / results_file_name
    if cfg.DATASETS.TEST and not (results.is_file() and results.stat().st_mtime_ns >= last.stat().st_mtime_ns):
        return False  # killed while evaluating the final weights
    checkpoint = Checkpoint.open(last)
    done = int(checkpoint.data.get("iteration", -1)) + 1
    if done < cfg.SOLVER.MAX_ITER != checkpoint.saved_cfg.SOLVER.MAX_ITER:
        return False
    print(
        f"{cfg.OUTPUT_DIR}: the training is finished ({done} iterations); nothing to resume. To continue, raise "
        "SOLVER.MAX_ITER; to start again, leave out --resume"
    )
    return True
