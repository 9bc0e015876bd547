"""The folder of a training run: held by one run at a time, and never a mixture of two."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode

from mdf_detectron.errors import CheckpointError, ConfigError
from mdf_detectron.fileio import remove_partial_files, shorten_path
from mdf_detectron.locks import FolderLock

METRICS_FILE_NAME = "metrics.json"
LAST_CHECKPOINT_FILE_NAME = "last_checkpoint"
FINAL_CHECKPOINT = "model_final"
ARCHIVE = "previous_runs"
_OF_A_RUN = (LAST_CHECKPOINT_FILE_NAME, "*.pth", METRICS_FILE_NAME, "validation_history.json")
"""Files that only a training writes; the first is moved first, so that half of a run is never resumed."""
_MORE_FILES = ("results.json", "events.out.tfevents.*", "config.yaml", "log.txt*", "trackers.json", "inference")
_NUMBERED = re.compile(r"model_(\d{7})\.pth")

logger = logging.getLogger(__name__)


@contextmanager
def hold_output_folder(cfg: CfgNode, *, anew: bool, resume: bool = False) -> Iterator[None]:
    """Hold ``OUTPUT_DIR`` for a training or evaluation, without what dead runs were writing.

    Args:
        anew: a training starts: the run that is there is moved aside, see :func:`archive_previous_run`.
        resume: unless there is a checkpoint to go on from.

    Raises:
        FolderInUseError: another run writes to the folder.
        ConfigError: ``MODEL.WEIGHTS`` is one of the files that would be moved.
    """
    folder = Path(cfg.OUTPUT_DIR)
    with FolderLock(folder):
        inference = folder / "inference"
        remove_partial_files(folder, inference, *inference.glob("*"))  # other folders below may be other runs'
        if anew and not (resume and checkpoint_to_resume(folder)):
            if cfg.MODEL.WEIGHTS and Path(cfg.MODEL.WEIGHTS).resolve().parent == folder.resolve():
                raise ConfigError(
                    f"MODEL.WEIGHTS {shorten_path(cfg.MODEL.WEIGHTS)} lies in OUTPUT_DIR, whose run a new training "
                    "moves aside; name another OUTPUT_DIR"
                )
            archive_previous_run(folder)
        yield


def archive_previous_run(folder: str | Path) -> Path | None:
    """Move the checkpoints, curves, logs and results of an earlier run aside, so that a new one does not mix with them.

    Returns:
        ``<folder>/previous_runs/<number>``; None where there was no training.
    """
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
    """Find the checkpoint at which a training goes on: the one that ``last_checkpoint`` names, else the latest.

    The first checkpoint of a run that was killed at once may lack the name.

    Returns:
        its path; None where there is none.

    Raises:
        CheckpointError: ``last_checkpoint`` names a file that is not there.
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
    """Remove the lines of a log (one JSON object a line) from ``iteration`` on, and a line that was not finished.

    A run that was killed has logged iterations behind its last checkpoint; a resumed run logs them again.

    Args:
        iteration: the first that the resumed run makes.

    Returns:
        the last iteration that is kept; -1 where there is none.
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
