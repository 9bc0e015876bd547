"""The validations of a run: which was the best, and how many have passed since; kept in a file across resumes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mdf_detectron.errors import CheckpointError
from mdf_detectron.evaluation.files import write_json

HISTORY_FILE_NAME = "validation_history.json"


class ValidationHistory:
    """Values of one metric over the iterations of a run.

    Args:
        path: its JSON file, written whole after every validation.
        metric: name of the metric.
        larger_is_better: False for losses.
        min_delta: least improvement that counts.
    """

    def __init__(self, path: str | Path, metric: str, larger_is_better: bool = True, min_delta: float = 0.0) -> None:
        self.path, self.metric = Path(path), metric
        self.larger_is_better, self.min_delta = larger_is_better, min_delta
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    def resume(self, iteration: int) -> None:
        """Take up the file's validations up to the ``iteration`` that training resumes at; 0 begins anew.

        The best is kept even if it was seen later than that: its checkpoint is there.

        Raises:
            CheckpointError: the file is damaged.
        """
        if iteration == 0 or not self.path.is_file():
            return
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            entries, best, metric = data["entries"], data["best"], data["metric"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path} is damaged ({error!r}); remove it to count anew") from None
        if metric == self.metric:  # values of another metric say nothing about this one
            self.entries, self.best = [e for e in entries if e["iteration"] <= iteration], best

    def add(self, iteration: int, value: float | None) -> bool:
        """Record a validation; True if it is the best so far (an undefined value never is)."""
        value = None if value is None or not math.isfinite(value) else float(value)
        self.entries.append({"iteration": iteration, "value": value})
        better = value is not None and (self.best is None or self._gain(value) > self.min_delta)
        if better:
            self.best = {"iteration": iteration, "value": value}
        data = {"metric": self.metric, "best": self.best, "entries": self.entries}
        write_json(self.path, data)
        return better

    @property
    def since_best(self) -> int:
        """Validations after the best one."""
        after = self.best["iteration"] if self.best else 0
        return sum(e["iteration"] > after for e in self.entries)

    def _gain(self, value: float) -> float:
        return value - self.best["value"] if self.larger_is_better else self.best["value"] - value
