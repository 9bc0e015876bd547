"""Publish a training checkpoint as one file with operating points, calibration and test results."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, CONTENTS_KEY, Checkpoint, save_checkpoint_file, signed
from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.config import reads_record, without_paths
from mdf_detectron.data.loaders import records_of
from mdf_detectron.data.record_changes import permute_records
from mdf_detectron.errors import ConfigError, UserError
from mdf_detectron.evaluation.calibration import calibrated, choose_threshold, fit_temperature, reliability
from mdf_detectron.evaluation.coco import PREDICTIONS_FILE_NAME, Detections, GroundTruth
from mdf_detectron.evaluation.evaluator import evaluate_records, ground_truth_of
from mdf_detectron.evaluation.froc import FrocDetections, froc_detections
from mdf_detectron.evaluation.summary import Protocol, compare, summarize
from mdf_detectron.modeling.clinical_encoder import ClinicalEncoder

OWN = "model"
"""Key of the model in its own evaluation."""


def predictions_on(
    cfg: CfgNode, model: nn.Module, dataset_name: str, folder: Path, shuffled: bool = False
) -> tuple[GroundTruth, Detections]:
    """Predict a registered data set; ``shuffled`` exchanges the records between patients."""
    records = records_of([dataset_name])
    if shuffled:
        records = permute_records(records, seed=0)
    evaluate_records(cfg, model, dataset_name, records, folder)
    ground_truth = ground_truth_of(dataset_name)
    return ground_truth, Detections.load(folder / PREDICTIONS_FILE_NAME, ground_truth)


def operating_point(
    found: FrocDetections,
    class_names: Sequence[str],
    source: str,
    criterion: str,
    *,
    false_positives: float | None = None,
    sensitivity: float | None = None,
) -> dict[str, Any]:
    """Choose the threshold of each class on validation predictions.

    Args:
        source: name of the data, for people.
        criterion: what counts as a hit, see :mod:`~mdf_detectron.evaluation.froc`.
        false_positives: at most this many per image and class; or
        sensitivity: at least this of each class. Give exactly one of the two.

    Returns:
        JSON-ready; a threshold of None reports nothing of that class.

    Raises:
        UserError: no threshold gives a class the sensitivity.
    """
    if (false_positives is None) == (sensitivity is None):
        raise ConfigError("give a number of false positives an image, or a sensitivity, to choose thresholds by")
    classes = {}
    for k, name in enumerate(class_names):
        chosen = found.category == k
        boxes = int((found.gt_category == k).sum())
        data = (found.scores[chosen], found.true_positive[chosen], boxes, found.num_images)
        point = choose_threshold(*data, false_positives=false_positives, sensitivity=sensitivity)
        if point is None:
            raise UserError(
                f"no threshold gives class '{name}' a sensitivity of {sensitivity:g} on {source}; ask for less"
            )
        values = {key: value if math.isfinite(value) else None for key, value in asdict(point).items()}
        classes[name] = {**values, "boxes": boxes}
    wanted = (
        f"at most {false_positives:g} false positives an image and class"
        if false_positives is not None
        else f"a sensitivity of at least {sensitivity:g}"
    )
    return {"source": f"{wanted}, on {source} ({found.num_images} images)", "criterion": criterion, "classes": classes}


def calibration(found: FrocDetections, source: str, criterion: str) -> dict[str, Any] | None:
    """Fit a temperature to the scores of validation predictions, all classes pooled, and measure its calibration.

    Returns:
        JSON-ready; None without both true and false positives.
    """
    temperature = fit_temperature(found.scores, found.true_positive)
    if temperature is None:
        return None
    return {
        "source": source,
        "criterion": criterion,
        "temperature": temperature,
        "detections": len(found.scores),
        "before": reliability(found.scores, found.true_positive),
        "after": reliability(calibrated(found.scores, temperature), found.true_positive),
    }


def splits_of(checkpoint: Checkpoint, val: str | None, test: str | None) -> tuple[str, str]:
    """Return the names of the validation and test split; by default those of the training's data.

    Raises ConfigError if one is not registered, or if both are the same.
    """
    datasets = checkpoint.saved_cfg.DATASETS
    folder = datasets.TRAIN[0].removesuffix("_train")
    val = val or next(iter(datasets.VAL), f"{folder}_val")
    test = test or next(iter(datasets.TEST), f"{folder}_test")  # trainings of an experiment name none
    for option, name in (("--val", val), ("--test", test)):
        if name not in DatasetCatalog.list():
            raise ConfigError(
                f"data set '{name}' is not registered: name one with {option}, or its folder with --data; "
                "--no-data publishes without thresholds and results"
            )
    if val == test:
        raise ConfigError(f"--val and --test are both '{val}'; thresholds must not be chosen on the test split")
    return val, test


def measure(
    checkpoint: Checkpoint,
    val: str,
    test: str,
    *,
    false_positives: float | None,
    sensitivity: float | None,
    criterion: str,
    resamples: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Choose thresholds and calibration on ``val`` and evaluate on ``test``.

    ``false_positives``, ``sensitivity`` and ``criterion`` are as in :func:`operating_point`; ``resamples`` is of the
    bootstrap. Returns the entries of the published file, and the result of :func:`evaluate_on_test`.
    """
    cfg = checkpoint.cfg
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.DATASETS.TEST = (val, test)
    model = load_model(cfg, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        ground_truth, detections = predictions_on(cfg, model, val, Path(folder) / "val")
        found = froc_detections(ground_truth, detections, criterion=criterion)
        point = operating_point(
            found, ground_truth.class_names, val, criterion, false_positives=false_positives, sensitivity=sensitivity
        )
        evaluation = evaluate_on_test(cfg, model, test, Path(folder), resamples)
    entries = {"operating_point": point, "calibration": calibration(found, val, criterion)}
    return entries | {"results": stored_results(evaluation, test)}, evaluation


def evaluate_on_test(cfg: CfgNode, model: nn.Module, dataset_name: str, folder: Path, resamples: int) -> dict[str, Any]:
    """Evaluate the model on its test split, with intervals, subgroups and exchanged records.

    Returns:
        ``models`` and ``comparison`` as ``mdf evaluate`` writes them. The comparison is of predictions from own records
        with those from another patient's; absent if the model reads no record.
    """
    protocol = Protocol(num_resamples=resamples, max_dets=cfg.TEST.DETECTIONS_PER_IMAGE)
    ground_truth, own = predictions_on(cfg, model, dataset_name, folder / "own")
    evaluation: dict[str, Any] = {"models": {OWN: summarize(ground_truth, own, protocol)}}
    if reads_record(cfg):
        _, shuffled = predictions_on(cfg, model, dataset_name, folder / "shuffled", shuffled=True)
        evaluation["comparison"] = compare(ground_truth, shuffled, own, protocol)
    return evaluation


def stored_results(evaluation: Mapping[str, Any], dataset_name: str) -> dict[str, Any]:
    """Return the part of an evaluation that a checkpoint keeps."""
    summary = evaluation["models"][OWN]
    kept = {key: summary[key] for key in ("dataset", "metrics", "subgroups")}
    return {"name": dataset_name, **kept, "against_exchanged_records": evaluation.get("comparison")}


def write_published(
    checkpoint: Checkpoint, path: Path, *, half: bool = False, **entries: dict[str, Any] | None
) -> Checkpoint:
    """Write the file to publish, without training state and machine paths; return it reopened.

    Args:
        half: store floating-point weights in 16 bits; statistics of clinical columns and the record model stay in 32.
        entries: operating_point, calibration and results of the contents.
    """
    weights = {name: _half(name, value) for name, value in checkpoint.weights.items()} if half else checkpoint.weights
    contents = {**checkpoint.contents, **entries}
    data = {"model": weights, CONFIG_KEY: without_paths(checkpoint.saved_cfg).dump(), CONTENTS_KEY: contents}
    save_checkpoint_file(signed(data), path)
    return Checkpoint.open(path)


def _half(name: str, value: torch.Tensor) -> torch.Tensor:
    owner, _, entry = name.rpartition(".")
    statistics = owner.endswith("clinical_encoder") and entry in ClinicalEncoder.STATISTICS
    statistics |= owner.endswith("record_model")
    return value.half() if value.is_floating_point() and not statistics else value
