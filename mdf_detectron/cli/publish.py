"""Make one file to hand on from a training checkpoint, and a model card beside it.

    mdf publish --weights output/.../model_best.pth --out model.pth
    mdf publish --weights ... --out model.pth --data FOLDER --sensitivity 0.9 --half

Operating thresholds and calibration come from the validation split, results from the test split; both are predicted
here. OUT.md is the model card, OUT_reliability.png the reliability diagram.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.data.catalog import register_all, register_prepared_folder
from mdf_detectron.errors import ConfigError
from mdf_detectron.evaluation.froc import CRITERIA
from mdf_detectron.fileio import write_figure, write_text
from mdf_detectron.model_zoo.publishing import (
    calibration,
    evaluate_on_test,
    operating_point,
    predictions_on,
    stored_results,
    write_published,
)
from mdf_detectron.report.charts import reliability_diagram
from mdf_detectron.report.model_card import DIAGRAM_SUFFIX, model_card


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", metavar="FILE.pth", type=Path, required=True, help="a checkpoint of a training")
    parser.add_argument("--out", metavar="model.pth", type=Path, required=True)
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="prepared folder, if it is elsewhere than registered"
    )
    parser.add_argument("--val", metavar="NAME", help="data set for thresholds (default: DATASETS.VAL, or <train>_val)")
    parser.add_argument("--test", metavar="NAME", help="data set for results (default: DATASETS.TEST, or <train>_test)")
    parser.add_argument("--no-data", action="store_true", help="no thresholds, calibration and results")
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--false-positives", type=float, metavar="N",
                        help="thresholds for at most N false positives an image and class (default: 0.25)")  # fmt: skip
    wanted.add_argument("--sensitivity", type=float, metavar="S", help="thresholds for a sensitivity of at least S")
    parser.add_argument(
        "--hit", choices=CRITERIA, default="iobb", help="what a true positive is (default: %(default)s)"
    )
    parser.add_argument("--half", action="store_true", help="store the weights in 16 bits")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.out.suffix != ".pth":
        parser.error("--out needs the ending .pth")
    if args.false_positives is None and args.sensitivity is None:
        args.false_positives = 0.25
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    checkpoint = Checkpoint.open(args.weights)
    datasets = checkpoint.saved_cfg.DATASETS
    register_all()
    if args.data is not None:
        register_prepared_folder(args.data, datasets.TRAIN[0].removesuffix("_train"))
    entries, evaluation = {}, None
    if not args.no_data:
        entries, evaluation = measure(args, checkpoint, *data_names(args, datasets))
    published = write_published(checkpoint, args.out, half=args.half, **entries)
    stem, contents = args.out.with_suffix(""), published.contents
    if contents["calibration"] is not None:
        write_figure(f"{stem}{DIAGRAM_SUFFIX}", reliability_diagram(contents["calibration"]))
    card = model_card(stem.name, contents, published.digest, evaluation, args.half)
    write_text(args.out.with_suffix(".md"), card)
    sizes = [path.stat().st_size / 2**20 for path in (args.weights, args.out)]
    print(f"{args.out}: {sizes[1]:.1f} MiB (from {sizes[0]:.1f}), model card: {args.out.with_suffix('.md')}")


def data_names(args: argparse.Namespace, datasets: CfgNode) -> tuple[str, str]:
    """Find the names of the validation and the test split."""
    folder = datasets.TRAIN[0].removesuffix("_train")
    val = args.val or next(iter(datasets.VAL), f"{folder}_val")
    test = args.test or next(iter(datasets.TEST), f"{folder}_test")  # trainings of a study name none
    for option, name in (("--val", val), ("--test", test)):
        if name not in DatasetCatalog.list():
            raise ConfigError(
                f"data set '{name}' is not registered: name one with {option}, or its folder with --data; "
                "--no-data publishes without thresholds and results"
            )
    if val == test:
        raise ConfigError(f"--val and --test are both '{val}'; thresholds must not be chosen on the test split")
    return val, test


def measure(args: argparse.Namespace, checkpoint: Checkpoint, val: str, test: str) -> tuple[dict, dict]:
    """Predict both splits; returns the entries of the published file, and the evaluation."""
    cfg = checkpoint.cfg
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.DATASETS.TEST = (val, test)
    model = load_model(cfg, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        ground_truth, detections = predictions_on(cfg, model, val, Path(folder) / "val")
        point = operating_point(
            ground_truth,
            detections,
            val,
            false_positives=args.false_positives,
            sensitivity=args.sensitivity,
            criterion=args.hit,
        )
        entries = {"operating_point": point, "calibration": calibration(ground_truth, detections, val, args.hit)}
        evaluation = evaluate_on_test(cfg, model, test, Path(folder), args.resamples)
    return entries | {"results": stored_results(evaluation, test)}, evaluation
