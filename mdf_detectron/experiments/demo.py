"""Run ``mdf demo``: train two models on synthetic data, compare them with late fusion and an oracle, write a report."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.child_processes import run_program, when_stopped
from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import dataset_annotations, load_schema, register_prepared_folder
from mdf_detectron.data.loaders import records_of
from mdf_detectron.data.readers import read_radiograph
from mdf_detectron.data.record_changes import EXCHANGED, permute_records
from mdf_detectron.data.schema import SCHEMA_FILE_NAME
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.oracle import oracle_predictions
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.engine.trainer import RESULTS_FILE_NAME
from mdf_detectron.errors import DatasetError, ResultsError, UserError
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import PREDICTIONS_FILE_NAME, Detections, GroundTruth
from mdf_detectron.evaluation.estimates import Verdict
from mdf_detectron.evaluation.evaluator import evaluate_records, ground_truth_of
from mdf_detectron.evaluation.late_fusion import RecordOdds, fit_exponents, fuse_scores
from mdf_detectron.evaluation.summary import Protocol, compare, headline_row
from mdf_detectron.fileio import finite_or_none, markdown_table, read_json, write_figure, write_json, write_text
from mdf_detectron.report.charts import Series, read_series, training_curves
from mdf_detectron.report.images import Panel, record_text, save_panels
from mdf_detectron.report.panels import metric_panels

DATASET = "synthetic_cxr"
TEST = f"{DATASET}_test"
CONFIGS = {"image_only": f"{DATASET}/mask_rcnn.yaml", "with_record": f"{DATASET}/logit_fusion.yaml"}
"""Model → config; the one with the record is the recommended one."""

MODEL_TITLES = {"image_only": "Mask R-CNN (image-only)", "with_record": "With the record (logit fusion)"}
LATE_TITLE = "Late fusion of Mask R-CNN and the record"
SHUFFLED_TITLE = "With the record, records shuffled across patients"
PICTURED = 6
SHOWN_SCORE = 0.3
"""Lowest score of a prediction that is drawn in the pictures."""


def run_demo(out: Path, *, num_patients: int, signal: float, seed: int, opts: list[str]) -> None:
    """Prepare the data, train and test both models, and write ``report.md``; with ``signal`` 0 records tell nothing."""
    dataset = out / DATASET
    made = prepare_synthetic(dataset, CohortSettings(num_patients, seed, signal=signal, image_size=160))
    print(f"{dataset}: {'written' if made else 'already up to date'}")
    opts = ["SEED", str(seed), *opts]
    with when_stopped(lambda text: f"{text}; what is finished is kept in {out}: run the same command to train again"):
        for model in CONFIGS:
            _train(model, out, opts)
    register_prepared_folder(dataset, DATASET)
    metrics = {model: read_json(out / model / RESULTS_FILE_NAME, ResultsError) for model in CONFIGS}
    metrics["shuffled"] = _shuffled_metrics(out, opts)
    truth = ground_truth_of(TEST)
    metrics["oracle"] = {
        oracle: evaluate_coco(truth, oracle_predictions(dataset, "test", oracle)) for oracle in ("image", "both")
    }
    inference = Path("inference") / TEST / PREDICTIONS_FILE_NAME
    predictions = {model: read_json(out / model / inference, ResultsError) for model in CONFIGS}
    late = _late_fusion(out, opts, truth, predictions["image_only"])
    metrics["late_fusion"] = evaluate_coco(truth, late)
    metrics["differences"] = _differences(
        truth, late, *predictions.values(), _shuffled_folder(out) / PREDICTIONS_FILE_NAME
    )
    write_json(out / "metrics.json", metrics)
    images = draw_images(dataset, predictions, out / "images")
    write_figure(out / "loss.png", training_curves(_series(out)))
    splits = read_json(dataset / "report.json", DatasetError)["splits"]
    write_figure(out / "ap50.png", _ap_chart(metrics, list(splits["test"]["boxes"])))
    sizes = {split: splits[split]["images"] for split in ("train", "test")}
    path = write_demo_report(out, metrics, images, sizes, signal=signal, seed=seed)
    for name in ("image_only", "late_fusion", "with_record", "shuffled"):
        print(f"{name:<18} AP50 by IoBB {metrics[name]['bbox_iobb']['AP50']:5.1f}")
    print(f"report: {path}")


def _train(model: str, out: Path, opts: list[str]) -> None:
    command = [sys.executable, "-m", "mdf_detectron", "train", "--config-file", CONFIGS[model]]
    if run_program([*command, "OUTPUT_DIR", str(out / model), *opts], DETECTRON2_DATASETS=str(out)):
        raise UserError(f"training of {model} failed; its log is {out / model / 'log.txt'}")


def _shuffled_metrics(out: Path, opts: list[str]) -> dict:
    """Evaluate the model with the record on the test split with records permuted across patients."""
    cfg = load_config(CONFIGS["with_record"], ["MODEL.DEVICE", "cpu", *opts])
    model = load_model(cfg, out / "with_record" / "model_final.pth")
    return evaluate_records(cfg, model, TEST, permute_records(records_of([TEST])), _shuffled_folder(out))


def _shuffled_folder(out: Path) -> Path:
    return out / "with_record" / "inference" / f"{TEST}_shuffled"


def _late_fusion(out: Path, opts: list[str], truth: GroundTruth, image_only: list) -> Detections:
    """Add to the image-only model's test detections what the record alone says, by as much as helps on validation."""
    val = f"{DATASET}_val"
    cfg = load_config(CONFIGS["image_only"], ["MODEL.DEVICE", "cpu", *opts])
    folder = out / "image_only" / "inference" / val
    evaluate_records(cfg, load_model(cfg, out / "image_only" / "model_final.pth"), val, records_of([val]), folder)
    odds, val_truth = RecordOdds(f"{DATASET}_train"), ground_truth_of(val)
    found = Detections.load(folder / PREDICTIONS_FILE_NAME, val_truth)
    exponents = fit_exponents(val_truth, found, odds.of_split(val, val_truth))
    return fuse_scores(Detections.load(image_only, truth), odds.of_split(TEST, truth), exponents.values)


def _differences(truth: GroundTruth, late: Detections, image_only: list, own: list, shuffled: Path) -> dict[str, Any]:
    """Test the model with the record against the image-only one, late fusion, and itself with shuffled records."""
    loaded = {"image_only": Detections.load(image_only, truth), "late_fusion": late,
              "shuffled": Detections.load(shuffled, truth)}  # fmt: skip
    own, protocol = Detections.load(own, truth), Protocol(tasks=("bbox",))
    return {name: headline_row(compare(truth, one, own, protocol)["differences"]) for name, one in loaded.items()}


def draw_images(dataset: Path, predictions: dict[str, list[dict]], out: Path) -> list[Path]:
    """Draw test images: ground truth and the predictions of each model side by side, with the record at the right."""
    data, schema = dataset_annotations(TEST), load_schema(dataset / SCHEMA_FILE_NAME)
    number_of = {category["id"]: i for i, category in enumerate(data.categories)}
    annotated = [im for im in data.images if any(a["image_id"] == im["id"] for a in data.annotations)]
    paths = []
    for number, image in enumerate(annotated[:PICTURED]):
        panels = [_panel("Ground truth", data.annotations, image["id"], number_of, scored=False)]
        for model, results in predictions.items():
            shown = [r for r in results if r["score"] >= SHOWN_SCORE]
            panels.append(_panel(MODEL_TITLES[model], shown, image["id"], number_of, scored=True))
        pixels = read_radiograph(dataset / "images" / image["file_name"])
        path = out / f"image_{number + 1}.png"
        paths.append(save_panels(path, pixels, panels, data.class_names, record_text(schema, image["clinical"])))
    return paths


def _panel(title: str, entries: list[dict], image_id: int, number_of: dict[int, int], scored: bool) -> Panel:
    own = [e for e in entries if e["image_id"] == image_id]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (e["bbox"] for e in own)]
    polygons = [] if scored else [e["segmentation"] for e in own]
    return Panel(
        title=title,
        boxes=boxes,
        classes=[number_of[e["category_id"]] for e in own],
        scores=[e["score"] for e in own] if scored else None,
        polygons=polygons,
    )


def _series(out: Path) -> Series:
    """Read the training curves of both models; the total loss is the sum of the unweighted losses."""
    found: Series = {}
    for model, title in MODEL_TITLES.items():
        series = read_series(out / model / "metrics.json")
        losses = [points for name, points in series.items() if name.startswith("raw/loss")]
        series["total_loss"] = losses[0][0], np.sum([values for _, values in losses], axis=0).tolist()
        found |= {f"{title}/{name}": points for name, points in series.items()}
    return found


def _titled(metrics: dict[str, Any]) -> dict[str, Any]:
    """Map the titles of both models, of late fusion, of shuffled records, and of the oracle to their metrics."""
    return {
        MODEL_TITLES["image_only"]: metrics["image_only"],
        LATE_TITLE: metrics["late_fusion"],
        MODEL_TITLES["with_record"]: metrics["with_record"],
        SHUFFLED_TITLE: metrics["shuffled"],
        "Oracle, image-only": metrics["oracle"]["image"],
        "Oracle, image and record": metrics["oracle"]["both"],
    }


def _ap_chart(metrics: dict[str, Any], class_names: list[str]) -> Figure:
    """Draw AP50 by IoBB per class and its mean for both models, shuffled records, and the oracle upper bounds."""
    keys = [*(f"AP50-{name}" for name in class_names), "AP50"]
    series = {
        title: [{"value": finite_or_none(one["bbox_iobb"][key]), "low": None, "high": None} for key in keys]
        for title, one in _titled(metrics).items()
    }
    return metric_panels([*class_names, "mean of classes"], {"AP50": series}, "by IoBB, test split, one training each")


def write_demo_report(
    out: Path, metrics: dict[str, Any], images: list[Path], sizes: dict[str, int], *, signal: float, seed: int
) -> Path:
    """Write ``report.md``: results table, interpretation, and pictures."""
    rows = []
    for title, values in _titled(metrics).items():
        cells = [values[task][key] for task in ("bbox_iobb", "bbox") for key in ("AP50", "AR50", "AP")]
        rows.append((title, *(f"{v:.1f}" for v in cells)))
    header = ("", "AP50 IoBB", "AR50 IoBB", "AP IoBB", "AP50 IoU", "AR50 IoU", "AP IoU")
    found = metrics["differences"]
    gain, more, loss = (Verdict.of(found[name]) for name in ("image_only", "late_fusion", "shuffled"))
    parts = [
        "# Demo: does the clinical record help?\n",
        "**The data are synthetic. These numbers show that the mechanism works; they are not clinical evidence.** "
        f"The vitals are generated so that they distinguish look-alike findings (signal {signal:g}); the "
        "correlations published for real patients are several times weaker.\n",
        f"{sizes['train']} training and {sizes['test']} test images of different patients, one run each with "
        f"seed {seed}: intervals cover the test patients, not the chance of training, which is a few points. "
        "The model with the record is the recommended one (`synthetic_cxr/logit_fusion.yaml`); the paper's MDF-Net is "
        "`synthetic_cxr/mdf_net.yaml`. Late fusion trains no network: it multiplies the odds of the image-only model's "
        "scores by what the record alone says of each class.\n",
        markdown_table(header, rows),
        f"{gain.of_record()} AP50 by IoBB of the model with the record minus the image-only one is {gain.numbers}, "
        f"minus late fusion {more.numbers} (95 % interval over the test patients in brackets). "
        f"{loss.of_change(EXCHANGED)}\n",
        "The oracle knows the generating process and scores the ground-truth boxes by the exact probability of each "
        "class: no detector can be expected above it.\n",
        "![AP50 by class](ap50.png)\n",
        "![Unweighted losses, and AP50 where training measured it](loss.png)\n",
        "## Test images\n",
        f"Predictions with a score of at least {SHOWN_SCORE:g}; the record is the one that was read.\n",
        *(f"![{path.stem}](images/{path.name})\n" for path in images),
    ]
    return write_text(out / "report.md", "\n".join(parts))
