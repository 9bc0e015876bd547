"""The demo: synthetic data, Mask R-CNN and MDF-Net trained and compared, oracle ceilings, pictures, a report."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.child_processes import child_environment
from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.oracle import oracle_predictions
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.engine.trainer import RESULTS_FILE_NAME
from mdf_detectron.errors import DatasetError, ResultsError, UserError
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.evaluator import PREDICTIONS_FILE_NAME
from mdf_detectron.fileio import read_json, write_json
from mdf_detectron.inference.evaluation import evaluate_with_shuffled_rows
from mdf_detectron.report.demo import draw_ap_bars, draw_images, draw_loss_curves, write_demo_report

MODELS = {"mask_rcnn": "mask_rcnn", "mdf_net": "mdf_net_compact"}
"""Name in the demo → config: MDF-Net has the recommended clinical branch, with which a step takes half the time."""

DATASET = "synthetic_cxr"
TEST = f"{DATASET}_test"


def config_file(model: str) -> str:
    """Name of a model's config in the model zoo."""
    return f"{DATASET}/{MODELS[model]}.yaml"


def train(model: str, out: Path, opts: list[str]) -> None:
    """Run ``mdf train``, as a user would."""
    command = [sys.executable, "-m", "mdf_detectron", "train", "--config-file", config_file(model)]
    command += ["OUTPUT_DIR", str(out / model), *opts]
    if subprocess.run(command, env=child_environment(DETECTRON2_DATASETS=str(out))).returncode:
        raise UserError(f"training of {model} failed; its log is {out / model / 'log.txt'}")


def shuffled_metrics(out: Path, opts: list[str]) -> dict:
    """Evaluate MDF-Net on the test split with every record moved to another patient."""
    cfg = load_config(config_file("mdf_net"), ["MODEL.DEVICE", "cpu", *opts])
    model = load_model(cfg, out / "mdf_net" / "model_final.pth")
    return evaluate_with_shuffled_rows(cfg, model, TEST, out / "mdf_net" / "inference" / f"{TEST}_shuffled")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("output/demo"))
    parser.add_argument("--num-patients", type=int, default=700)
    parser.add_argument("--signal", type=float, default=1.0, help="how much the synthetic records tell; 0: nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides of both trainings, KEY VALUE")
    args = parser.parse_args(argv)
    out, dataset = args.out, args.out / DATASET
    settings = CohortSettings(args.num_patients, args.seed, signal=args.signal, image_size=160)
    made = prepare_synthetic(dataset, settings)
    print(f"{dataset}: {'written' if made else 'already up to date'}")
    opts = ["SEED", str(args.seed), *args.opts]
    for model in MODELS:
        train(model, out, opts)
    register_prepared_folder(dataset, DATASET)
    metrics = {model: read_json(out / model / RESULTS_FILE_NAME, ResultsError) for model in MODELS}
    metrics["mdf_net_shuffled"] = shuffled_metrics(out, opts)
    truth = dataset / "annotations" / "test.json"
    metrics["oracle"] = {
        name: evaluate_coco(truth, oracle_predictions(dataset, "test", use_table))
        for name, use_table in (("image", False), ("both", True))
    }
    write_json(out / "metrics.json", metrics)
    report(out, dataset, metrics, args)


def report(out: Path, dataset: Path, metrics: dict, args: argparse.Namespace) -> None:
    """Draw the pictures and write report.md."""
    inference = Path("inference") / TEST / PREDICTIONS_FILE_NAME
    predictions = {model: read_json(out / model / inference, ResultsError) for model in MODELS}
    images = draw_images(dataset, predictions, out / "images")
    draw_loss_curves({model: out / model for model in MODELS}, out / "loss.png")
    splits = read_json(dataset / "report.json", DatasetError)["splits"]
    draw_ap_bars(metrics, list(splits["test"]["boxes"]), out / "ap50.png")
    facts = {
        "signal": args.signal,
        "seed": args.seed,
        "num_train": splits["train"]["images"],
        "num_test": splits["test"]["images"],
    }
    path = write_demo_report(out, metrics, facts, images)
    for name in (*MODELS, "mdf_net_shuffled"):
        print(f"{name:<18} AP50 by IoBB {metrics[name]['bbox_iobb']['AP50']:5.1f}")
    print(f"report: {path}")
