"""Draw the charts and write the report of an evaluation again, or the curves of a training run.

    mdf plot --evaluation DIR [--training RUN/metrics.json]    charts and report below DIR
    mdf plot --training RUN/metrics.json --out DIR             losses and train-against-test curves only

DIR is what mdf evaluate wrote: precision and recall, FROC, threshold sweep, TP, FP and FN, confusion matrix, subgroup
analysis.
"""

import argparse
from pathlib import Path

from mdf_detectron.errors import ResultsError
from mdf_detectron.fileio import check_regular, write_figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", metavar="DIR", type=Path, help="folder with an evaluation.json")
    parser.add_argument("--training", metavar="FILE", type=Path, help="metrics.json of a training run")
    parser.add_argument("--metric", default="bbox_iobb/AP50", help="of the training curves (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: the folder of the evaluation")
    args = parser.parse_args(argv)
    if not (args.evaluation or (args.training and args.out)):
        parser.error("needs --evaluation DIR, or --training FILE with --out DIR")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for path in filter(None, (args.evaluation and args.evaluation / "evaluation.json", args.training)):
        check_regular(path, ResultsError)

    from mdf_detectron.evaluation.summary import read_evaluation
    from mdf_detectron.report.charts import all_charts, read_series, training_curves
    from mdf_detectron.report.html import write_evaluation_report

    out = args.out or args.evaluation
    training = {"training": training_curves(read_series(args.training), args.metric)} if args.training else {}
    if args.evaluation:
        evaluation = read_evaluation(args.evaluation)
        write_evaluation_report(out, evaluation, all_charts(evaluation["models"]) | training)
        print(f"report: {out / 'report.html'}")
        return
    for name, figure in training.items():
        print(f"chart: {write_figure(out / f'{name}.png', figure)}")
