"""Validate during training: metrics and losses on held-out data, their history, best checkpoint, early stopping."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.engine.hooks import RUNNING_STATE, replaced_weights
from mdf_detectron.engine.processes import copy_from_main, unwrapped
from mdf_detectron.errors import CheckpointError, ConfigError, UserError
from mdf_detectron.fileio import read_json, write_json
from mdf_detectron.validation import Strict, validated

HISTORY_FILE_NAME = "validation_history.json"


class _Validation(Strict):
    iteration: int
    value: float | None


class _History(Strict):
    metric: str
    best: _Validation | None
    entries: list[_Validation]


class ValidationHistory:
    """Keep one metric's values over a run in a JSON file; ``larger_is_better`` is False for losses."""

    def __init__(self, path: str | Path, metric: str, larger_is_better: bool = True) -> None:
        self.path, self.metric = Path(path), metric
        self.larger_is_better = larger_is_better
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    def resume(self, iteration: int) -> None:
        """Load the file's validations up to ``iteration``, where training resumes; 0 starts with none.

        The best is kept even if it was later, because its checkpoint exists. Raises ``CheckpointError``.
        """
        if iteration == 0 or not self.path.is_file():
            return
        try:
            data = validated(_History, read_json(self.path, CheckpointError), "it", CheckpointError)
        except UserError as error:
            raise CheckpointError(f"{self.path} is damaged; remove it to start counting again ({error})") from None
        if data.metric == self.metric:
            self.entries = [one.model_dump() for one in data.entries if one.iteration <= iteration]
            self.best = data.best and data.best.model_dump()

    def add(self, iteration: int, value: float | None) -> bool:
        """Record a validation's value; return :meth:`is_better`."""
        value = None if value is None or not math.isfinite(value) else float(value)
        better = self.is_better(value)
        self.entries.append({"iteration": iteration, "value": value})
        if better:
            self.best = {"iteration": iteration, "value": value}
        data = {"metric": self.metric, "best": self.best, "entries": self.entries}
        write_json(self.path, data)
        return better

    def is_better(self, value: float | None) -> bool:
        """Tell whether a value would be the best so far; None and NaN never are."""
        if value is None or not math.isfinite(value):
            return False
        best = self.best and self.best["value"]
        return best is None or (value > best if self.larger_is_better else value < best)

    @property
    def since_best(self) -> int:
        """Number of validations after the best one; undefined values (a split without annotations) do not count."""
        after = self.best["iteration"] if self.best else 0
        return sum(e["iteration"] > after and e["value"] is not None for e in self.entries)


BEST_CHECKPOINT = "model_best"

LOSS_METRICS = ("total_loss",)
"""Metrics for which smaller is better."""

logger = logging.getLogger(__name__)


class EarlyStop(BaseException):
    """End a training that no longer improves, after ``iterations``; no ``Exception``: Detectron2 would log an error."""

    def __init__(self, iterations: int) -> None:
        super().__init__(iterations)
        self.iterations = iterations


class ValidationHook(HookBase):
    """Validate every ``period`` iterations and after the last one.

    Scalars: ``val/<task>/<metric>``, ``val/<loss>``, ``val/best``, ``val/validations_since_best``.

    Args:
        period: in iterations; 0 validates only after the last one.
        evaluate: returns {task: {metric: value}} on the validation split.
        losses: returns its mean losses; None for no losses.
        history: of the metric that decides: "task/metric", or a loss's name.
        save_best: called with the number of completed iterations when a validation is the best so far.
        patience: number of validations without improvement that ends the training; 0 for no limit.
        weights: gives the model, for a validation, the weights to validate.
    """

    def __init__(
        self,
        *,
        period: int,
        evaluate: Callable[[], Mapping[str, Mapping[str, float]]],
        history: ValidationHistory,
        save_best: Callable[[int], None],
        losses: Callable[[], Mapping[str, float]] | None = None,
        patience: int = 0,
        weights: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._period, self._patience = period, patience
        self._evaluate, self._losses, self._weights = evaluate, losses, weights
        self._history, self._save_best = history, save_best

    def before_train(self) -> None:
        self._history.resume(self.trainer.start_iter)
        if best := self._history.best:
            logger.info("best %s so far: %.4f after %d iterations, %d validation(s) ago", self._history.metric,
                        best["value"], best["iteration"], self._history.since_best)  # fmt: skip
        if self.trainer.start_iter < self.trainer.max_iter:
            self._stop_if_stuck()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self._validate(done)
            if done < self.trainer.max_iter:
                self._stop_if_stuck()

    def _validate(self, done: int) -> None:
        with self._weights():
            scalars = {f"val/{n}": v for n, v in self._losses().items()} if self._losses else {}
            metrics = flatten(self._evaluate())
        scalars |= {f"val/{name}": value for name, value in metrics.items()}
        if comm.is_main_process():
            if f"val/{self._history.metric}" not in scalars:
                known = sorted(n.removeprefix("val/") for n in scalars if n.startswith("val/"))
                raise ConfigError(f"VALIDATION.METRIC '{self._history.metric}' is not among {known}")
            value = scalars[f"val/{self._history.metric}"]
            better = self._history.is_better(value)
            shown = "undefined" if value is None else f"{value:.4f}{', the best so far' if better else ''}"
            logger.info("%s after %d iterations: %s", self._history.metric, done, shown)
            if better:
                self._save_best(done)  # before the history names it, so that a killed run saves it again
            self._history.add(done, value)
            if best := self._history.best:
                scalars["val/best"] = best["value"]
            scalars["val/validations_since_best"] = self._history.since_best
            finite = {n: float(v) for n, v in scalars.items() if v is not None and math.isfinite(v)}
            self.trainer.storage.put_scalars(**finite, smoothing_hint=False)
        comm.synchronize()

    def _stop_if_stuck(self) -> None:
        stuck = self._patience > 0 and self._history.since_best >= self._patience
        if any(comm.all_gather(stuck)):
            logger.info("%s has not improved in %d validations; training ends", self._history.metric, self._patience)
            raise EarlyStop(max(comm.all_gather(self._history.entries[-1]["iteration"] if stuck else 0)))


def flatten(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Convert {task: {metric: value}} to {"task/metric": value}."""
    return {f"{task}/{name}": value for task, values in results.items() for name, value in values.items()}


_CHANGED_BY_TRAINING = (_NormBase, _DropoutNd, nn.MultiheadAttention, nn.RNNBase)
"""Layers that compute something else in training: batch normalization and dropout."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode; restore each module's mode on exit."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in was_training.items():
            module.training = flag


@contextmanager
def losses_in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Make a model return losses while its backbone, batch norm and dropout behave as at inference.

    Detectors differ in the part that chooses between losses and predictions, so all other parts are in training mode.
    """
    state = {key: vars(model)[key] for key in RUNNING_STATE if key in vars(model)}
    with eval_mode(model):
        of_backbone = set(model.backbone.modules())
        for module in model.modules():
            module.training = module not in of_backbone and not isinstance(module, _CHANGED_BY_TRAINING)
        try:
            yield
        finally:
            vars(model).update(state)


def mean_losses(model: nn.Module, loader: Iterable[list[dict]]) -> dict[str, float]:
    """Compute the mean of each loss over a loader's images in all processes, without gradients.

    Proposal sampling is seeded, so that calls with the same weights agree; training's random state does not change.

    Returns:
        the model's (weighted) losses, ``total_loss`` (their sum) and, from a loss-weighting meta-architecture, the
        unweighted ones as ``raw/<name>``; empty for an empty loader.
    """
    model = unwrapped(model)
    sums: dict[str, float] = {}
    images = 0
    with torch.random.fork_rng(), torch.no_grad(), losses_in_eval_mode(model):
        torch.manual_seed(0)
        for batch in loader:
            with EventStorage() as storage:
                losses = {name: float(value) for name, value in model(batch).items()}
                raw = {n: v[0] for n, v in storage.latest().items() if n.startswith("raw/")}
            losses["total_loss"] = sum(losses.values())
            for name, value in {**losses, **raw}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
            images += len(batch)
    gathered = comm.all_gather((sums, images))
    total = sum(count for _, count in gathered)
    names = {name: None for part, _ in gathered for name in part}
    return {name: sum(part.get(name, 0.0) for part, _ in gathered) / total for name in names}


@contextmanager
def weights_of(path: Path | None, model: nn.Module) -> Iterator[None]:
    """Temporarily load a checkpoint's weights into an unwrapped model of the same run; restore the old ones on exit.

    The main process's ``path`` decides, and the others get its weights; None changes nothing.
    """
    if not comm.all_gather(path is not None)[0]:
        yield
        return
    with replaced_weights(Checkpoint.open(path).weights if comm.is_main_process() else model.state_dict(), model):
        if comm.get_world_size() > 1:
            copy_from_main(model)
        yield
