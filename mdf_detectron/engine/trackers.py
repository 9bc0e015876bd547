"""Experiment trackers next to TensorBoard: Weights & Biases and MLflow (``TRACKERS`` of the config).

A tracker gets the config and the scalars of ``metrics.json``, and nothing else: no images, records, predictions,
console text or source code, no user or host names; absolute paths are cut to their last component. The trackers' own
environment variables set where a run is sent and under which project (``WANDB_MODE``, ``WANDB_PROJECT``,
``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` …).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from mdf_detectron.config import flat_config
from mdf_detectron.engine.validation import EarlyStop
from mdf_detectron.errors import ResultsError, UserError, shorten
from mdf_detectron.fileio import read_json, write_json

DEFAULT_PROJECT = "mdf_detectron"
RUNS_FILE_NAME = "trackers.json"
"""In the run's folder: each tracker's id of this run, by which a resumed training continues it."""

WINDOW = 20
"""Iterations over which losses are smoothed, as in ``metrics.json``."""

logger = logging.getLogger(__name__)


class TrackerWriter(EventWriter):
    """Write scalars to a run of its own in a tracker; a base class.

    A tracker has ``open_run(run_id)``, which opens the run of that id, or a new one, and returns its id;
    ``send(iteration, scalars)``; and ``end_run(failed)``, which sends what is left. ``config`` is that of
    :func:`shared_config`.
    """

    key = ""

    def __init__(self, *, name: str, folder: str | Path, config: dict[str, Any]) -> None:
        self.name, self.folder, self.config = name, Path(folder), config
        self._last_write = -1

    def skip_until(self, iteration: int) -> None:
        """Send only what is logged after an iteration; call before the first write."""
        self._last_write = iteration

    def start(self, resumed: bool) -> None:
        """Open the run, or that of the training that is resumed; called before the first iteration.

        Raises:
            UserError: the tracker cannot be reached, or does not know the user.
        """
        path = self.folder / RUNS_FILE_NAME
        runs = read_json(path, ResultsError) if path.is_file() else {}
        runs[self.key] = self.open_run(runs.get(self.key) if resumed else None)
        write_json(path, runs)

    def write(self) -> None:
        """Send the scalars that are new since the last call, each under its iteration."""
        new: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._last_write:
                new[iteration][name] = float(value)
        for iteration in sorted(new):
            self.send(iteration, new[iteration])
        self._last_write = max([self._last_write, *new])

    def close(self) -> None:
        """End the run; it has failed where an exception ends the training (early stopping is none)."""
        self.end_run(failed=sys.exc_info()[0] not in (None, EarlyStop))


class WandbWriter(TrackerWriter):
    """Weights & Biases, with the settings off that send host, user, command line, git remote and packages.

    ``WANDB_MODE=offline`` writes files below the run's folder instead of sending.
    """

    key = "wandb"

    def open_run(self, run_id: str | None) -> str:
        import wandb

        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            host="",
            save_code=False,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT),
                name=os.environ.get("WANDB_NAME", self.name),
                dir=str(self.folder),
                config=self.config,
                id=run_id,
                resume="allow",
                settings=settings,
            )
        except wandb.Error as error:
            raise UserError(
                f"Weights & Biases: {shorten(str(error), 200)}; run `wandb login`, or set WANDB_MODE=offline"
            ) from None
        # Not W&B's own steps: they must not go back, and a resumed training logs its last iterations again.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def send(self, iteration: int, scalars: dict[str, float]) -> None:
        self._run.log({"iteration": iteration, **scalars})

    def end_run(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MlflowWriter(TrackerWriter):
    """MLflow, by its client alone: the fluent interface would add the user, the script's path and the git commit.

    Without ``MLFLOW_TRACKING_URI`` MLflow writes ``mlflow.db`` in the current folder.
    """

    key = "mlflow"
    most_metrics, most_params = 1000, 100  # of one request, MLflow's own limits

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pending: list[Any] = []

    def open_run(self, run_id: str | None) -> str:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self._client = MlflowClient()
            if run_id is not None and self._goes_on(run_id):
                self._id = run_id
                return run_id
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._client.create_experiment(name)
            self._id = self._client.create_run(number, run_name=self.name).info.run_id
            params = [Param(key, str(value)) for key, value in self.config.items()]
            for first in range(0, len(params), self.most_params):
                self._client.log_batch(self._id, params=params[first : first + self.most_params])
        except MlflowException as error:
            raise UserError(f"MLflow: {shorten(str(error), 200)}; check MLFLOW_TRACKING_URI") from None
        return self._id

    def _goes_on(self, run_id: str) -> bool:
        failure = self._try(self._client.update_run, run_id, status="RUNNING")
        if failure:
            logger.warning(f"MLflow does not know the run {run_id} of this folder ({failure}); a new one is opened")
        return not failure

    def _try(self, call: Callable[..., object], *args: Any, **options: Any) -> str:
        """Make a call; return what MLflow says against it, or ""."""
        from mlflow.exceptions import MlflowException

        try:
            call(*args, **options)
        except MlflowException as error:
            return shorten(str(error))
        return ""

    def send(self, iteration: int, scalars: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # characters that MLflow does not allow in a name become "_"
        names = {name: re.sub(r"[^\w\-. :/]", "_", name) for name in scalars}
        self._pending += [Metric(names[name], value, now, iteration) for name, value in scalars.items()]
        self._flush()

    def _flush(self) -> None:
        """Send what is pending; a server that is away must not end a training of days, and gets it with the next."""
        while self._pending:
            failure = self._try(self._client.log_batch, self._id, metrics=self._pending[: self.most_metrics])
            if failure:
                logger.warning(
                    f"MLflow did not take {len(self._pending)} scalars ({failure}); they are sent with the next"
                )
                return
            del self._pending[: self.most_metrics]

    def end_run(self, failed: bool) -> None:
        if failure := self._try(self._client.set_terminated, self._id, "FAILED" if failed else "FINISHED"):
            logger.warning(f"MLflow was not told of the run's end ({failure})")
        if self._pending:
            logger.warning(f"MLflow lacks the last {len(self._pending)} scalars of this run")


WRITERS = {"wandb": WandbWriter, "mlflow": MlflowWriter}


def build_trackers(cfg: CfgNode) -> list[TrackerWriter]:
    """Build the event writers that ``TRACKERS`` names; they open their runs in :meth:`TrackerWriter.start`."""
    config = shared_config(cfg)
    return [WRITERS[name](name=config["OUTPUT_DIR"], folder=cfg.OUTPUT_DIR, config=config) for name in cfg.TRACKERS]


def shared_config(cfg: CfgNode) -> dict[str, Any]:
    """Flatten a config as trackers get it: of an absolute path or an address the last component only."""
    return {key: _without_place(value) for key, value in flat_config(cfg).items()}


def _without_place(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_place(item) for item in value]
    outside = isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "..")) or "://" in value)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if outside else value
