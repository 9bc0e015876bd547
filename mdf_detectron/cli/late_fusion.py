"""Add the clinical record to any detector without training: late fusion.

    mdf late-fusion FOLDER --predictions results.json --validation-predictions val_results.json --out fused.json

A record model is fitted on the train split of a prepared folder: which classes are in an image, from its record alone.
The odds of each score are multiplied by what it says. How much of it counts is fitted on the predictions of the
validation split; without them all of it does. The predictions are COCO results of any tool.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mdf_detectron.cli.arguments import existing_file, prepared_folder

if TYPE_CHECKING:
    import numpy as np

    from mdf_detectron.evaluation.coco import Detections, GroundTruth
    from mdf_detectron.evaluation.late_fusion import Exponents, RecordOdds


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=prepared_folder, help="prepared folder")
    parser.add_argument("--predictions", metavar="A.json", type=existing_file, required=True,
                        help="COCO results file on the images of --split")  # fmt: skip
    parser.add_argument("--validation-predictions", metavar="V.json", type=existing_file,
                        help="the same model's on the validation split: fits the exponents (default: 1)")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)
    parser.add_argument("--split", choices=("test", "val"), default="test", help="(default: %(default)s)")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="clinical columns to use (default: all)")
    args = parser.parse_args(argv)
    if args.split == "val" and args.validation_predictions:
        parser.error("the exponents are fitted on the validation split: results on it would be too good")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from mdf_detectron.data.catalog import register_prepared_folder
    from mdf_detectron.errors import ResultsError
    from mdf_detectron.evaluation.coco import Detections
    from mdf_detectron.evaluation.evaluator import ground_truth_of
    from mdf_detectron.evaluation.late_fusion import Exponents, RecordOdds, fit_exponents, fuse_scores
    from mdf_detectron.fileio import read_json, write_json

    name = Path(args.folder).resolve().name
    register_prepared_folder(args.folder, name)
    odds = RecordOdds(f"{name}_train", args.columns)
    truth = ground_truth_of(f"{name}_{args.split}")
    detections, log_odds = Detections.load(args.predictions, truth), _log_odds(odds, f"{name}_{args.split}", truth)
    if args.validation_predictions:
        val = ground_truth_of(f"{name}_val")
        found = Detections.load(args.validation_predictions, val)
        exponents = fit_exponents(val, found, _log_odds(odds, f"{name}_val", val))
    else:
        exponents = Exponents.one(truth.num_classes, "no predictions of the validation split were given")
    fused = fuse_scores(detections, log_odds, exponents.values)
    results = read_json(args.predictions, ResultsError, nan=True)
    new = [{**one, "score": float(score)} for one, score in zip(results, fused.scores, strict=True)]
    write_json(args.out, new, indent=None)
    print(_report(odds, truth, log_odds, exponents, {"before": detections, "after": fused}))
    print(f"{len(new)} detections with updated scores: {args.out}")


def _log_odds(odds: RecordOdds, dataset: str, truth: GroundTruth) -> np.ndarray:
    from mdf_detectron.data.loaders import records_of

    return odds(records_of([dataset]), truth.image_ids)


def _report(
    odds: RecordOdds, truth: GroundTruth, log_odds: np.ndarray, exponents: Exponents, found: dict[str, Detections]
) -> str:
    """Say what the record alone tells, the exponents, AP50 before and after, and what the fusion leaves as it is."""
    from mdf_detectron.evaluation import evaluate_coco
    from mdf_detectron.fileio import markdown_table

    scores = {name: evaluate_coco(truth, one, tasks=["bbox"]) for name, one in found.items()}
    titles = {"bbox_iobb": "AP50 by IoBB", "bbox": "AP50 by IoU"}
    rows = [["all", "", "", *(f"{scores[n][table]['AP50']:.1f}" for table in titles for n in found)]]
    for k, name in enumerate(truth.class_names):
        values = (f"{scores[n][table][f'AP50-{name}']:.1f}" for table in titles for n in found)
        rows.append([name, f"{auc_of(truth, log_odds, k):.3f}", f"{exponents.values[k]:.2f}", *values])
    header = ["class", "AUC of the record alone", "exponent", *(f"{t}, {n}" for t in titles.values() for n in found)]
    lines = [markdown_table(header, rows), exponents.note]
    if odds.without_example:
        lines.append(f"{', '.join(odds.without_example)}: in no image of the train split, or in all: scores stay")
    empty = int((~log_odds.any(axis=1)).sum())
    if empty:
        lines.append(f"{empty} of {truth.num_images} images: no value in the record, or it tells nothing: scores stay")
    return "\n".join(lines)


def auc_of(truth: GroundTruth, log_odds: np.ndarray, k: int) -> float:
    """Compute the AUC of the record alone for the presence of a class in an image; NaN where undefined."""
    import numpy as np

    from mdf_detectron.evaluation.late_fusion import auc

    present = np.isin(np.arange(truth.num_images), truth.image[truth.category == k])
    return auc(present, log_odds[:, k])
