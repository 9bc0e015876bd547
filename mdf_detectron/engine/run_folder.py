"""The folder of a training run: what an earlier run left there, and logs that go on without overlapping lines."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

METRICS_FILE_NAME = "metrics.json"
ARCHIVE = "previous_runs"
_RUN_FILES = ("*.pth", "last_checkpoint", METRICS_FILE_NAME, "validation_history.json", "results.json",
              "events.out.tfevents.*")  # fmt: skip

logger = logging.getLogger(__name__)


def archive_previous_run(folder: str | Path) -> Path | None:
    """Move the checkpoints, curves and results of an earlier run aside, so that a new run does not mix with them.

    Returns:
        ``<folder>/previous_runs/<number>``; None where there was no run.
    """
    folder = Path(folder)
    files = sorted({f for pattern in _RUN_FILES for f in folder.glob(pattern)})
    if not files:
        return None
    numbers = [int(p.name) for p in (folder / ARCHIVE).glob("*") if p.name.isdigit()]
    target = folder / ARCHIVE / str(max(numbers, default=0) + 1)
    target.mkdir(parents=True)
    for file in files:
        file.rename(target / file.name)
    logger.warning("an earlier run was in %s; its %d files are now in %s", folder, len(files), target)
    return target


def cut_log(path: str | Path, iteration: int) -> int:
    """Remove the lines of a log (one JSON object a line) from ``iteration`` on, and a line that was not finished.

    A run that was killed has logged iterations behind its last checkpoint; a resumed run logs them again.

    Args:
        iteration: the first that the resumed run makes.

    Returns:
        number of bytes removed; 0 where there is no file.
    """
    path = Path(path)
    if not path.is_file():
        return 0
    kept = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n") or not _before(line, iteration):
                break
            kept += len(line)
    removed = path.stat().st_size - kept
    if removed:
        os.truncate(path, kept)
    return removed


def _before(line: bytes, iteration: int) -> bool:
    try:
        return json.loads(line)["iteration"] < iteration
    except (ValueError, KeyError, TypeError):
        return False
