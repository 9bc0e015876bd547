"""Experiment trackers beside TensorBoard: Weights & Biases and MLflow (``TRACKERS`` of the config).

A tracker gets the config and the scalars of ``metrics.json``, and nothing else: no image, record, prediction or console
text, no name of a user or machine, no source code, and of an absolute path only its last part. Where a run is sent, and
under which project, is said by the trackers' own environment variables (``WANDB_MODE``, ``WANDB_PROJECT``,
``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` …).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from mdf_detectron.engine.validation import EarlyStop
from mdf_detectron.errors import ConfigError, ResultsError, UserError, shorten
from mdf_detectron.fileio import read_json, write_json

DEFAULT_PROJECT = "mdf_detectron"
RUNS_FILE_NAME = "trackers.json"
"""In the run's folder: the trackers' names of this run, by which a resumed training goes on."""

WINDOW = 20
"""Iterations over which losses are smoothed, as in ``metrics.json``."""


class TrackerWriter(EventWriter):
    """Base: an event writer with a run of its own in a tracker.

    Args:
        name: of the run.
        folder: of the run's files.
        config: flat, of :func:`shared_config`.
    """

    key = ""

    def __init__(self, *, name: str, folder: str | Path, config: dict[str, Any]) -> None:
        self.name, self.folder, self.config = name, Path(folder), config
        self._last_write = -1

    def skip_until(self, iteration: int) -> None:
        """Send only what is put behind an iteration; call before the first write."""
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

    def open_run(self, run_id: str | None) -> str:
        """Open the run of that id, or a new one; returns its id."""
        raise NotImplementedError

    def send(self, iteration: int, scalars: dict[str, float]) -> None:
        """Send the scalars of one iteration."""
        raise NotImplementedError

    def end_run(self, failed: bool) -> None:
        """Send what is left."""
        raise NotImplementedError


class WandbWriter(TrackerWriter):
    """Weights & Biases. Its own settings send host, user, command line, git remote and packages; they are off here."""

    key = "wandb"

    def open_run(self, run_id: str | None) -> str:
        """See the base. ``WANDB_MODE=offline`` writes files below the run's folder instead of sending."""
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
        """See the base."""
        self._run.log({"iteration": iteration, **scalars})

    def end_run(self, failed: bool) -> None:
        """See the base."""
        self._run.finish(exit_code=int(failed))


class MlflowWriter(TrackerWriter):
    """MLflow, by its client alone: the fluent interface would add the user, the script's path and the git commit."""

    key = "mlflow"
    most_metrics, most_params = 1000, 100  # of one request, MLflow's own limits

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pending: list[Any] = []

    def open_run(self, run_id: str | None) -> str:
        """See the base. Without ``MLFLOW_TRACKING_URI`` MLflow writes ``mlflow.db`` in the current folder."""
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
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            logging.getLogger(__name__).warning(
                f"MLflow does not know the run {run_id} of this folder ({shorten(str(error))}); a new one is opened"
            )
            return False
        return True

    def send(self, iteration: int, scalars: dict[str, float]) -> None:
        """See the base. Characters that MLflow does not allow in a name become "_"."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        names = {name: re.sub(r"[^\w\-. :/]", "_", name) for name in scalars}
        self._pending += [Metric(names[name], value, now, iteration) for name, value in scalars.items()]
        self._flush()

    def _flush(self) -> None:
        """A server that is away must not end a training of days: what it does not take is sent with what follows."""
        from mlflow.exceptions import MlflowException

        try:
            while self._pending:
                self._client.log_batch(self._id, metrics=self._pending[: self.most_metrics])
                del self._pending[: self.most_metrics]
        except MlflowException as error:
            logging.getLogger(__name__).warning(
                f"MLflow did not take {len(self._pending)} scalars ({shorten(str(error))}); they are sent with the next"
            )

    def end_run(self, failed: bool) -> None:
        """See the base."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
        except MlflowException as error:
            logging.getLogger(__name__).warning(f"MLflow was not told of the run's end ({shorten(str(error))})")
        if self._pending:
            logging.getLogger(__name__).warning(f"MLflow lacks the last {len(self._pending)} scalars of this run")


WRITERS = {"wandb": WandbWriter, "mlflow": MlflowWriter}


def check_trackers(cfg: CfgNode) -> None:
    """Fail before any work if the package of a tracker of ``TRACKERS`` is absent.

    Raises:
        ConfigError: it says what to install.
    """
    absent = [name for name in cfg.TRACKERS if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"TRACKERS names {', '.join(absent)}, which is not installed; run: pip install 'mdf_detectron[trackers]'"
        )


def build_trackers(cfg: CfgNode) -> list[TrackerWriter]:
    """Build the event writers that ``TRACKERS`` names; they open their runs in :meth:`TrackerWriter.start`."""
    check_trackers(cfg)
    config = shared_config(cfg)
    return [WRITERS[name](name=config["OUTPUT_DIR"], folder=cfg.OUTPUT_DIR, config=config) for name in cfg.TRACKERS]


def shared_config(cfg: CfgNode) -> dict[str, Any]:
    """Flatten a config to "NODE.KEY" → value as trackers get it: no path of this machine, no address."""
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            flat |= {f"{key}.{inner}": v for inner, v in shared_config(value).items()}
        else:
            flat[key] = _without_place(value)
    return flat


def _without_place(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_without_place(item) for item in value]
    outside = isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "..")) or "://" in value)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if outside else value
