"""Send scalars to experiment trackers, Weights & Biases and MLflow (config key ``TRACKERS``).

A tracker gets the config and the scalars of ``metrics.json`` only: no images, records, predictions, console text,
source code, user or host names; absolute paths are cut to their last component. The trackers' own environment variables
choose server and project (``WANDB_MODE``, ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` …).
"""

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

from mdf_detectron.config import flat_config, without_paths
from mdf_detectron.engine.validation import EarlyStop
from mdf_detectron.errors import ResultsError, UserError, shorten
from mdf_detectron.fileio import read_json, write_json

DEFAULT_PROJECT = "mdf_detectron"
RUNS_FILE_NAME = "trackers.json"
"""File in the run's folder: tracker → its id of this run, which a resumed training continues."""

WINDOW = 20
"""Smoothing window of losses in iterations, as in ``metrics.json``."""

logger = logging.getLogger(__name__)


class TrackerWriter(EventWriter):
    """Base class: write scalars to one run of a tracker.

    Subclasses define ``open_run(run_id)``, which opens that run or a new one (None) and returns its id;
    ``send(iteration, scalars)``; and ``end_run(failed)``. ``config`` is from :func:`shared_config`.
    """

    key = ""

    def __init__(self, *, name: str, folder: str | Path, config: dict[str, Any]) -> None:
        self.name, self.folder, self.config = name, Path(folder), config
        self._last_write = -1

    def skip_until(self, iteration: int) -> None:
        """Send only what is logged after an iteration; call before the first write."""
        self._last_write = iteration

    def start(self, resumed: bool) -> None:
        """Open a run, or the resumed training's; ``UserError`` if the tracker is unreachable or refuses the user."""
        path = self.folder / RUNS_FILE_NAME
        runs = read_json(path, ResultsError) if path.is_file() else {}
        runs[self.key] = self.open_run(runs.get(self.key) if resumed else None)
        write_json(path, runs)

    def write(self) -> None:
        """Send the scalars since the last call, each with its iteration."""
        new: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._last_write:
                new[iteration][name] = float(value)
        for iteration in sorted(new):
            self.send(iteration, new[iteration])
        self._last_write = max([self._last_write, *new])

    def close(self) -> None:
        """End the run, as failed if an exception other than early stopping ends the training."""
        self.end_run(failed=sys.exc_info()[0] not in (None, EarlyStop))


class WandbWriter(TrackerWriter):
    """Write to Weights & Biases without sending host, user, command line, git remote or packages.

    With ``WANDB_MODE=offline`` it writes files below the run's folder instead.
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
        # W&B's own steps must not decrease, but a resumed training logs its last iterations again.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def send(self, iteration: int, scalars: dict[str, float]) -> None:
        self._run.log({"iteration": iteration, **scalars})

    def end_run(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MlflowWriter(TrackerWriter):
    """Write to MLflow through its client; the fluent interface would add user, script path and git commit.

    Without ``MLFLOW_TRACKING_URI`` MLflow writes ``mlflow.db`` in the current folder.
    """

    key = "mlflow"
    most_metrics, most_params = 1000, 100  # MLflow's limits per request

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
        """Make a call; return MLflow's error message, or ""."""
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
        """Send pending scalars; keep them for the next call if the server is unreachable."""
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
    """Build the writers that ``TRACKERS`` names; :meth:`TrackerWriter.start` opens their runs."""
    config = shared_config(cfg)
    return [WRITERS[name](name=config["OUTPUT_DIR"], folder=cfg.OUTPUT_DIR, config=config) for name in cfg.TRACKERS]


def shared_config(cfg: CfgNode) -> dict[str, Any]:
    """Flatten a config for trackers; cut absolute paths and URLs to their last component."""
    return flat_config(without_paths(cfg))
