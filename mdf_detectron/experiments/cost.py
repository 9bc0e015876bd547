"""Estimate the hours and disk space of the trainings that are left to do, from measured steps."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from mdf_detectron.config import flat_config
from mdf_detectron.data.loaders import build_test_loader, build_train_loader, records_of
from mdf_detectron.engine.optimizer import build_optimizer
from mdf_detectron.engine.trainer import fit_clinical_statistics
from mdf_detectron.experiments.study_data import StudyData
from mdf_detectron.experiments.trainings import Training
from mdf_detectron.modeling.meta_arch import build_model
from mdf_detectron.report.tables import Table

SECONDS, MOST_ROUNDS = 80.0, 9
"""Seconds in which all models are measured (more if a step of one image of each takes longer); most calls of one."""

PREDICTION_BYTES = 2_000
"""Approximate size of the predictions of an image with masks in a results file."""


@dataclass(frozen=True)
class Speed:
    """Measured speed and size of a variant.

    Attributes:
        step_seconds: median time of a training step, including reading the images.
        image_seconds: median time to predict one image.
        checkpoint_bytes: size of the weights and the optimizer state.
    """

    step_seconds: float
    image_seconds: float
    checkpoint_bytes: int
    parameters: int


def measure_speed(cfg: CfgNode, seconds: float) -> Speed:
    """Measure training steps and predictions on the config's data, in about ``seconds`` if one of each fits.

    If two whole steps do not fit in, a step takes the batch times as long as one of one image.
    """
    start, cfg = time.perf_counter(), cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    fit_clinical_statistics(cfg, model)
    optimizer, batches = build_optimizer(cfg, model), iter(build_train_loader(cfg))
    batch, last = next(batches), start + 0.8 * seconds
    with EventStorage(0):
        one = _median_seconds(lambda: _step(model, optimizer, batch[:1]), cfg, start + 0.4 * seconds, 2)
        step_seconds = len(batch) * one
        if time.perf_counter() + 2 * step_seconds < last:
            step_seconds = _median_seconds(lambda: _step(model, optimizer, next(batches)), cfg, last, MOST_ROUNDS)
    model.eval()
    images = cycle(build_test_loader(cfg, cfg.DATASETS.VAL[0], records_of(cfg.DATASETS.VAL)[:MOST_ROUNDS]))
    with torch.no_grad():
        image_seconds = _median_seconds(lambda: model(next(images)), cfg, start + seconds, MOST_ROUNDS)
    state = sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values()
                if isinstance(v, torch.Tensor))  # fmt: skip
    weights = sum(v.numel() * v.element_size() for v in model.state_dict().values())
    return Speed(step_seconds, image_seconds, weights + state, sum(p.numel() for p in model.parameters()))


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: list[dict]) -> None:
    loss = sum(model(batch).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _median_seconds(call: Callable[[], Any], cfg: CfgNode, end: float, most: int) -> float:
    """Return the median time of calls until ``end``; the first one chooses kernels and counts only if it is alone."""
    rounds = [_timed(call, cfg)]
    while len(rounds) <= most and time.perf_counter() + rounds[-1] < end:
        rounds.append(_timed(call, cfg))
    return float(np.median(rounds[1:] or rounds))


def _timed(call: Callable[[], Any], cfg: CfgNode) -> float:
    start = time.perf_counter()
    call()
    if cfg.MODEL.DEVICE != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def cost_of(training: Training, speed: Speed, data: StudyData) -> tuple[float, int, int]:
    """Estimate the seconds of a training without early stopping, the bytes it keeps, and further temporary bytes."""
    cfg = training.cfg
    sizes = {split: len(found.images) for split, found in data.splits[training.fold].items()}
    steps, period = cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD
    validations = 1 + ((steps - 1) // period if period > 0 else 0)
    validated = sizes["val"] * (2 if cfg.VALIDATION.LOSSES else 1)
    predicted = len(training.states) * sizes["test"] + training.train_images + training.on_val * sizes["val"]
    seconds = steps * speed.step_seconds + (validations * validated + predicted) * speed.image_seconds
    kept = 2 * speed.checkpoint_bytes + predicted * PREDICTION_BYTES
    return seconds, kept, steps // cfg.SOLVER.CHECKPOINT_PERIOD * speed.checkpoint_bytes


def plan_cost(trainings: Sequence[Training], left: Sequence[Training], data: StudyData, jobs: int) -> tuple[Table, str]:
    """Measure every model once; return a table of what the trainings in ``left`` cost by variant, and their sums."""
    rows, hours, kept, peaks = [], 0.0, 0, []
    models = {training.variant: _model_key(training.cfg) for training in reversed(trainings)}
    distinct = {models[training.variant]: training.cfg for training in trainings}
    measured = tqdm(distinct.items(), desc="measuring", unit="model", leave=False)
    speeds = {key: measure_speed(cfg, SECONDS / len(distinct)) for key, cfg in measured}
    for name in dict.fromkeys(training.variant for training in trainings):
        planned = [training for training in trainings if training.variant == name]
        solver, speed = planned[0].cfg.SOLVER, speeds[models[name]]
        costs = [cost_of(training, speed, data) for training in left if training.variant == name]
        own_hours, own_kept = sum(one[0] for one in costs) / 3600, sum(one[1] for one in costs)
        hours, kept = hours + own_hours, kept + own_kept
        peaks += [one[2] for one in costs]
        rows.append(
            [name, str(len(planned)), str(len(costs)), f"{speed.step_seconds:.3f}",
             f"{solver.IMS_PER_BATCH / speed.step_seconds:.1f}", f"{1 / speed.image_seconds:.1f}",
             f"{speed.parameters / 1e6:.2f}", str(solver.MAX_ITER), f"{own_hours:.2f}", f"{own_kept / 1e9:.2f}"]
        )  # fmt: skip
    header = ["variant", "trainings", "left", "s a step", "images/s, training", "images/s, prediction",
              "parameters (M)", "steps", "hours", "GB kept"]  # fmt: skip
    at_once = f", about {hours / jobs:.1f} with {jobs} at a time" if jobs > 1 else ""
    text = (
        f"{len(left)} of {len(trainings)} trainings are left: {hours:.1f} hours one after the other{at_once}, "
        f"{kept / 1e9:.2f} GB of disk and up to {sum(sorted(peaks)[-jobs:]) / 1e9:.2f} GB more while they run. Times "
        f"are medians of at most {MOST_ROUNDS} steps of each of {len(distinct)} models on this machine, of one image "
        "times the batch where a step is slow; early stopping makes it less."
    )
    return Table("cost", "Cost", header, rows), text


def _model_key(cfg: CfgNode) -> str:
    """Identify models of equal cost: all keys of model, input and batch but the columns that are read."""
    columns = ("MODEL.CLINICAL.NUMERIC", "MODEL.CLINICAL.CATEGORICAL", "MODEL.CLINICAL.VOCABULARIES")
    return str([(k, v) for k, v in flat_config(cfg).items() if k.startswith(("MODEL.", "INPUT.", "SOLVER.IMS"))
                and k not in columns])  # fmt: skip
