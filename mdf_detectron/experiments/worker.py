"""Run one training of a study in its own process: train or resume, then predict with every state of the records.

``python -m mdf_detectron.experiments.worker FOLDER`` reads ``training.json`` in the folder and skips finished steps, so
a killed process can be run again. At the end the folder holds ``scores.json`` or ``failure.json``.
"""

import argparse
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.child_processes import end_with_caller, stop_in_one_line
from mdf_detectron.data.loaders import records_of, train_part
from mdf_detectron.engine.resume import METRICS_FILE_NAME
from mdf_detectron.engine.run import setup_cfg, setup_process
from mdf_detectron.engine.trainer import MultimodalTrainer
from mdf_detectron.engine.validation import BEST_CHECKPOINT
from mdf_detectron.errors import ResultsError, UserError
from mdf_detectron.evaluation.evaluator import evaluate_records
from mdf_detectron.experiments import trainings
from mdf_detectron.experiments.plan import change_records
from mdf_detectron.fileio import finite_or_none, read_json, write_json
from mdf_detectron.locks import FolderLock

TRAINED_FILE_NAME = "trained.json"


def work(folder: str | Path) -> None:
    """Finish the training and the predictions of a folder; write any error to ``failure.json`` and raise it again.

    Raises:
        FolderInUseError: another process works in the folder.
    """
    folder = Path(folder)
    with FolderLock(folder, in_parent=True):
        with suppress(FileNotFoundError):
            (folder / trainings.FAILURE_FILE_NAME).unlink()
        try:
            _work(folder)
        except Exception as error:
            reason = (str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").strip()
            write_json(folder / trainings.FAILURE_FILE_NAME, {"reason": reason.splitlines()[0] if reason else ""})
            raise


def _work(folder: Path) -> None:
    entry = read_json(folder / trainings.ENTRY_FILE_NAME, ResultsError)
    opts = [*entry["opts"], "OUTPUT_DIR", str(folder)]
    args = argparse.Namespace(config_file=entry["config"], opts=opts, eval_only=False, resume=True)
    setup_process(cfg := setup_cfg(args), args)
    if not (folder / TRAINED_FILE_NAME).is_file():
        trainer = MultimodalTrainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        write_json(folder / TRAINED_FILE_NAME, _about_training(cfg, trainer))
        for intermediate in folder.glob("model_[0-9]*.pth"):
            intermediate.unlink()
        del trainer
    about = read_json(folder / TRAINED_FILE_NAME, ResultsError)
    states = score(cfg, folder, about["checkpoint"], entry)
    write_json(folder / trainings.SCORES_FILE_NAME, {**about, "states": states})


def _about_training(cfg: CfgNode, trainer: MultimodalTrainer) -> dict[str, Any]:
    folder, model = Path(cfg.OUTPUT_DIR), trainer.model
    best = (folder / f"{BEST_CHECKPOINT}.pth").is_file()
    seconds = step_seconds(folder)
    return finite_or_none(
        {
            "checkpoint": BEST_CHECKPOINT if best else "model_final",
            "iterations": min(trainer.iter + 1, trainer.max_iter),  # if stopped early, iter is the last step
            "step_seconds": seconds,
            "images_per_second": cfg.SOLVER.IMS_PER_BATCH / seconds if seconds else None,
            "parameters": sum(p.numel() for p in model.parameters()),
            "device": cfg.MODEL.DEVICE,
        }
    )


def step_seconds(folder: Path) -> float | None:
    """Return the median time of a logged training step, in seconds; None if the log has no times."""
    from mdf_detectron.report.charts import read_series  # draws: slow to import

    path = folder / METRICS_FILE_NAME
    times = read_series(path).get("time", ((), ()))[1] if path.is_file() else ()
    return statistics.median(times) if times else None


def score(cfg: CfgNode, folder: Path, checkpoint: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Predict and score the test split with every state of its records, and the other splits if requested.

    Returns:
        state → {"metrics": {table: {metric: value}}, "seconds_per_image", "image_ids"}.
    """
    found, model = {}, None
    parts = {trainings.TRAIN_PART: entry["train_images"], trainings.VAL_PART: entry.get("on_val")}
    for state in (*entry["states"], *(part for part, wanted in parts.items() if wanted)):
        dataset = entry["datasets"][state if state in parts else "test"]
        out = trainings.predictions_file(folder, state).parent
        result = out / "metrics.json"
        if not result.is_file():
            model = model or load_model(cfg, folder / f"{checkpoint}.pth")
            records = train_part(cfg, entry["train_images"]) if state == trainings.TRAIN_PART else records_of([dataset])
            records = records if state in parts else change_records(state, records)
            write_json(result, _score_one(cfg, model, dataset, records, out))
        found[state] = read_json(result, ResultsError)
    return found


def _score_one(cfg: CfgNode, model: nn.Module, dataset: str, records: list[dict], out: Path) -> dict[str, Any]:
    start = time.perf_counter()
    metrics = evaluate_records(cfg, model, dataset, records, out)
    seconds = (time.perf_counter() - start) / len(records)
    ids = [record["image_id"] for record in records]
    return finite_or_none({"metrics": metrics, "seconds_per_image": seconds, "image_ids": ids})


def main() -> None:
    end_with_caller()
    try:
        with stop_in_one_line():
            work(sys.argv[1])
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
