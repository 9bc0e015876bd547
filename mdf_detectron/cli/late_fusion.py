"""Add the clinical record to any detector without training: late fusion.

    mdf late-fusion FOLDER --predictions results.json --validation-predictions val_results.json --out fused.json
    mdf late-fusion FOLDER --weights image_only/model_best.pth --out late.pth

A record model is fitted on the train split of a prepared folder: which classes are in an image, from its record alone.
The odds of each score are multiplied by what it says. How much of it counts is fitted on the validation split.
Predictions are COCO results of any tool; without those of the validation split the record counts in full. With
--weights, an image-only model of this project becomes one that reads the record.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mdf_detectron.cli.arguments import checkpoint_file, existing_file, prepared_folder

if TYPE_CHECKING:
    import numpy as np

    from mdf_detectron.evaluation.coco import Detections, GroundTruth
    from mdf_detectron.evaluation.late_fusion import Exponents, RecordOdds


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=prepared_folder, help="prepared folder, or its fold_N for a model of that fold")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--predictions", metavar="A.json", type=existing_file, help="COCO results on --split")
    source.add_argument("--weights", metavar="A.pth", type=checkpoint_file, help="image-only checkpoint")
    parser.add_argument("--validation-predictions", metavar="V.json", type=existing_file,
                        help="the same tool's on the validation split: fits the exponents (default: 1)")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help=".json, or .pth with --weights")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="(default: %(default)s)")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="clinical columns to use (default: all)")
    args = parser.parse_args(argv)
    if args.validation_predictions and (args.split == "val" or args.weights):
        parser.error("--validation-predictions goes with --predictions on the test split")
    if args.out.suffix != (".pth" if args.weights else ".json"):
        parser.error("--out needs the ending .json, or .pth with --weights")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    (_of_weights if args.weights else _of_predictions)(args)


def _of_predictions(args: argparse.Namespace) -> None:
    from mdf_detectron.data.catalog import register_prepared_folder
    from mdf_detectron.errors import ResultsError
    from mdf_detectron.evaluation.coco import Detections
    from mdf_detectron.evaluation.evaluator import ground_truth_of
    from mdf_detectron.evaluation.late_fusion import Exponents, RecordOdds, fit_exponents, fuse_scores
    from mdf_detectron.fileio import read_json, write_json

    name = Path(args.folder).resolve().name
    register_prepared_folder(args.folder, name)
    odds, split = RecordOdds(f"{name}_train", args.columns), f"{name}_{args.split}"
    truth = ground_truth_of(split)
    detections = Detections.load(args.predictions, truth)
    exponents = Exponents.one(truth.num_classes, "no predictions of the validation split were given")
    if args.validation_predictions:
        val = ground_truth_of(f"{name}_val")
        found = Detections.load(args.validation_predictions, val)
        exponents = fit_exponents(val, found, odds.of_split(f"{name}_val", val))
    ratios = odds.of_split(split, truth)
    fused = fuse_scores(detections, ratios, exponents.values)
    results = read_json(args.predictions, ResultsError, nan=True)
    new = [{**one, "score": float(score)} for one, score in zip(results, fused.scores, strict=True)]
    write_json(args.out, new, indent=None)
    print(_report(odds, exponents, truth, ratios, {"before": detections, "after": fused}))
    print(f"{len(new)} detections with updated scores: {args.out}")


def _of_weights(args: argparse.Namespace) -> None:
    from mdf_detectron.checkpoint.checkpoint import Checkpoint
    from mdf_detectron.data.catalog import register_prepared_folder
    from mdf_detectron.evaluation.evaluator import ground_truth_of
    from mdf_detectron.model_zoo.late_fusion import write_late_fusion

    checkpoint = Checkpoint.open(args.weights)
    name = checkpoint.saved_cfg.DATASETS.TRAIN[0].removesuffix("_train")
    register_prepared_folder(args.folder, name)
    odds, exponents = write_late_fusion(checkpoint, args.out, args.columns)
    split = f"{name}_{args.split}"
    truth = ground_truth_of(split)
    print(_report(odds, exponents, truth, odds.of_split(split, truth), {}))
    print(f"{args.out} reads {', '.join(odds.schema.names)}; mdf publish measures it")


def _report(
    odds: RecordOdds, exponents: Exponents, truth: GroundTruth, ratios: np.ndarray, found: dict[str, Detections]
) -> str:
    """Say what the record alone tells, the exponents, AP50 of ``found``, and what the fusion leaves as it is."""
    import numpy as np

    from mdf_detectron.evaluation import evaluate_coco
    from mdf_detectron.evaluation.record_alone import auc, classes_present
    from mdf_detectron.fileio import markdown_table

    scores = {name: evaluate_coco(truth, one, tasks=["bbox"]) for name, one in found.items()}
    areas = auc(ratios, classes_present(truth), np.ones((1, truth.num_images)))[0]
    tables = {"AP50 by IoBB": "bbox_iobb", "AP50 by IoU": "bbox"}
    columns = {f"{title}, {name}": one[table] for title, table in tables.items() for name, one in scores.items()}
    rows = [["all", "", "", *(f"{one['AP50']:.1f}" for one in columns.values())]] if found else []
    for k, name in enumerate(truth.class_names):
        aps = (f"{one[f'AP50-{name}']:.1f}" for one in columns.values())
        rows.append([name, f"{areas[k]:.3f}", f"{exponents.values[k]:.2f}", *aps])
    lines = [markdown_table(["class", "AUC of the record alone", "exponent", *columns], rows), exponents.note]
    if odds.without_example:
        lines.append(f"{', '.join(odds.without_example)}: in no image of the train split, or in all: scores stay")
    if empty := int((~ratios.any(axis=1)).sum()):
        lines.append(f"{empty} of {truth.num_images} images: no value in the record, or it tells nothing: scores stay")
    return "\n".join(lines)
