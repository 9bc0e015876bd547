"""The logs of a training run, which go on without overlapping lines when it is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

METRICS_FILE_NAME = "metrics.json"


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
