"""Score saved predictions (COCO results format, of any tool), and compare two models on the same images.

    mdf evaluate --dataset synthetic_cxr_test --predictions A.json --out DIR
    mdf evaluate --annotations test.json --predictions A.json --compare B.json --out DIR
    mdf evaluate --dataset synthetic_cxr_test --predictions A.json --weights model.pth --out DIR

Writes DIR/metrics.json, DIR/evaluation.json, DIR/tables/*.csv, DIR/figures/*.png,
DIR/report.md and DIR/report.html.
"""

import argparse
from pathlib import Path
from typing import Any

from mdf_detectron.errors import CheckpointError, DatasetError, ResultsError, UserError, shorten
from mdf_detectron.evaluation.coco import PREDICTIONS_FILE_NAME, Detections, GroundTruth
from mdf_detectron.evaluation.froc import CRITERIA, froc_detections
from mdf_detectron.evaluation.matching import AREAS
from mdf_detectron.fileio import check_regular, write_json


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", metavar="NAME", help="registered dataset, e.g. synthetic_cxr_test")
    source.add_argument("--annotations", metavar="FILE.json", type=Path, help="COCO annotation file")
    parser.add_argument("--predictions", metavar="A.json", type=Path, required=True, help="COCO results file")
    parser.add_argument("--compare", metavar="B.json", type=Path, help="a second one: is it better than the first?")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--weights", metavar="model.pth", type=Path, nargs="+", default=[],
                        help="published checkpoint of the predictions (two with --compare): shows what its thresholds "
                             "and its temperature do on these images")  # fmt: skip
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names of the models in the report")
    parser.add_argument("--score-threshold", type=float, default=0.1, help="for the counts (default: %(default)s)")
    parser.add_argument("--max-dets", type=int, default=10, help="detections of an image and class (%(default)s)")
    parser.add_argument("--area", nargs="+", metavar="NAME", default=["all"],
                        help=f"{', '.join(AREAS)}, or two numbers LOW HIGH in pixels²: ground-truth boxes that metrics "
                             "and counts are about (default: all)")  # fmt: skip
    parser.add_argument("--sweep", nargs=3, type=float, metavar=("FROM", "TO", "STEP"), default=(0, 1, 0.05),
                        help="overlap thresholds of the threshold sweep (default: 0 1 0.05)")  # fmt: skip
    parser.add_argument(
        "--froc-hit", choices=CRITERIA, default="iobb", help="what a true positive of FROC is (default: %(default)s)"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--no-report", action="store_true", help="numbers and tables only")
    args = parser.parse_args(argv)
    if len(args.weights) > (2 if args.compare else 1):
        parser.error("--weights takes one checkpoint a file of predictions")
    if args.resamples < 1 or args.max_dets < 1:
        parser.error("--resamples and --max-dets must be at least 1")
    return args


def model_names(args: argparse.Namespace) -> list[str]:
    """Return --names, or else the runs' names, with folders or letters where they are equal."""
    files = [args.predictions, *([args.compare] if args.compare else [])]
    parts = [list(_run_of(file.resolve()).parts) for file in files]
    choices = [args.names or [p[-1] for p in parts], ["/".join(p[-2:]) for p in parts]]
    choices.append([f"{p[-1]} ({letter})" for p, letter in zip(parts, "AB", strict=False)])
    names = next((n for n in choices if args.names or len(set(n)) == len(n)), choices[-1])
    if len(names) != len(files) or len(set(names)) < len(names):
        raise UserError(f"--names needs {len(files)} different name(s), got {names}")
    return names


def _run_of(file: Path) -> Path:
    """Return the path whose last part names a file of predictions: its run's folder, or the file itself."""
    if file.name != PREDICTIONS_FILE_NAME:
        return file.with_suffix("")
    return file.parents[2] if file.parent.parent.name == "inference" else file.parent


def area_of(words: list[str]) -> str | tuple[float, float]:
    """Parse --area: a name, or the limits in pixels²."""
    if len(words) == 1 and words[0] in AREAS:
        return words[0]
    try:
        low, high = map(float, words)
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high:
        raise UserError(f"--area {' '.join(words)}: give one of {', '.join(AREAS)}, or LOW HIGH with 0 ≤ LOW < HIGH")
    return low, high


def sweep_of(first: float, last: float, step: float) -> tuple[float, ...]:
    """Parse --sweep: the overlap thresholds."""
    if not 0 <= first < last <= 1 or not 0.001 <= step <= last - first:
        raise UserError(f"--sweep {first:g} {last:g} {step:g}: give 0 ≤ FROM < TO ≤ 1 and a STEP of 0.001 to TO - FROM")
    return tuple(round(first + i * step, 6) for i in range(int((last - first) / step + 1e-9) + 1))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    names, files = model_names(args), [args.predictions, *([args.compare] if args.compare else [])]
    options = {"area": area_of(args.area), "sweep": sweep_of(*args.sweep)}
    for path in files:
        check_regular(path, ResultsError)
    if args.annotations:
        check_regular(args.annotations, DatasetError)
    if absent := [path for path in args.weights if not path.is_file()]:
        raise CheckpointError(f"no checkpoint at {absent[0]}")

    # evaluation needs torch and Detectron2 only for --dataset and --weights
    from mdf_detectron.evaluation.summary import FILE_NAME, Protocol, evaluate_models
    from mdf_detectron.report.charts import all_charts
    from mdf_detectron.report.html import write_evaluation_report
    from mdf_detectron.report.tables import build_tables

    ground_truth = GroundTruth.load(args.annotations) if args.annotations else registered(args.dataset)
    protocol = Protocol(
        score_threshold=args.score_threshold,
        max_dets=args.max_dets,
        num_resamples=args.resamples,
        seed=args.seed,
        froc_criterion=args.froc_hit,
        **options,
    )
    found = [Detections.load(path, ground_truth) for path in files]
    title = f"Evaluation on {args.dataset or args.annotations.name}"
    evaluation = evaluate_models(ground_truth, dict(zip(names, found, strict=True)), protocol, title)
    for summary, one, weights in zip(evaluation["models"].values(), found, args.weights, strict=False):
        summary["stored"] = choices_of(weights, ground_truth, one)
    metrics, *compared = (values_of(summary["metrics"]) for summary in evaluation["models"].values())
    if compared:
        metrics |= {"compare": compared[0], "comparison": evaluation["comparison"]}
    for name, summary in evaluation["models"].items():
        print(*(f"note on {name}: {text}\n" for text in summary["dataset"]["unusual"]), sep="", end="")
    write_json(args.out / "metrics.json", metrics)
    write_json(args.out / FILE_NAME, evaluation)
    write_evaluation_report(args.out, evaluation, {} if args.no_report else all_charts(evaluation["models"]))
    for table in build_tables(evaluation)[: len(files)]:
        print(f"{table.title}\n{table.to_markdown()}\n")
    print(f"results: {args.out / 'metrics.json'}, report: {args.out / 'report.html'}")


def registered(dataset: str) -> GroundTruth:
    """Load the ground truth of a registered data set."""
    from mdf_detectron.data.catalog import register_all
    from mdf_detectron.evaluation.evaluator import ground_truth_of

    register_all()
    return ground_truth_of(dataset)


def choices_of(weights: Path, ground_truth: GroundTruth, found: Detections) -> dict[str, Any]:
    """Evaluate the stored thresholds and temperature of a checkpoint on these predictions."""
    from mdf_detectron.checkpoint.checkpoint import Checkpoint
    from mdf_detectron.evaluation.calibration import stored_choices

    contents = Checkpoint.open(weights).contents
    if set(contents["class_names"]) != set(ground_truth.class_names):
        raise CheckpointError(
            f"{weights}: a model of {shorten(contents['class_names'])}, the annotations have "
            f"{shorten(list(ground_truth.class_names))}"
        )
    point, calibration = contents["operating_point"], contents["calibration"]
    if point is None and calibration is None:
        raise CheckpointError(f"{weights}: no thresholds and no calibration; `mdf publish` stores them")
    hits = froc_detections(ground_truth, found, criterion=(point or calibration)["criterion"])
    return stored_choices(hits, ground_truth.class_names, point, calibration)


def values_of(metrics: dict[str, dict[str, dict]]) -> dict[str, Any]:
    """Return the estimates without intervals, with the same keys as ``mdf train`` writes."""
    return {table: {name: one["value"] for name, one in rows.items()} for table, rows in metrics.items()}
