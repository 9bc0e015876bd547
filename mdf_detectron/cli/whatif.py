"""Change values of one study's clinical record and see each finding move; explain findings by columns.

    mdf whatif --weights model.pth --image image.png --record age=71 o2sat=88 --out DIR --set o2sat=98
    mdf whatif ... --hide o2sat --sweep temperature 95 104 10 --explain shapley

Writes DIR/what_if.json, DIR/what_if.png (before and after), DIR/sweep_COLUMN.png and DIR/contributions.png. What is
shown is the model's association, and no cause.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdf_detectron.cli.arguments import add_model_arguments, checkpoint_file, existing_file, parse_pairs


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", metavar="model.pth", type=checkpoint_file, required=True)
    parser.add_argument("--image", metavar="PATH", type=existing_file, required=True)
    parser.add_argument("--record", metavar="NAME=VALUE", nargs="+", default=[], help="the study's own record")
    parser.add_argument("--set", metavar="NAME=VALUE", nargs="+", default=[], help="values to change")
    parser.add_argument("--hide", metavar="NAME", nargs="+", default=[], help="columns to make missing ('all': all)")
    parser.add_argument("--sweep", metavar=("COLUMN", "VALUES"), nargs="+", action="append", default=[],
                        help="COLUMN FROM TO COUNT (numeric), or COLUMN (categorical: every value)")  # fmt: skip
    parser.add_argument("--explain", choices=("shapley", "ablation"), help="what each column contributes")
    parser.add_argument("--background", type=int, default=8, metavar="N",
                        help="records drawn from the training distribution (default: %(default)s)")  # fmt: skip
    parser.add_argument("--permutations", type=int, default=32, metavar="N",
                        help="of --explain shapley (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--findings", type=int, default=4, metavar="N", help="findings to follow (default: %(default)s)"
    )
    add_model_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of --explain (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    args = parser.parse_args(argv)
    if not (args.set or args.hide or args.sweep or args.explain):
        parser.error("nothing to do: give --set, --hide, --sweep or --explain")
    if min(args.background, args.permutations, args.findings) < 1:
        parser.error("--background, --permutations and --findings must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from mdf_detectron.data.sources.kit.values import read_record
    from mdf_detectron.fileio import markdown_table, write_figure, write_json
    from mdf_detectron.inference import what_if
    from mdf_detectron.inference.predictor import Predictor
    from mdf_detectron.report.panels import change_table, contribution_chart, sweep_chart

    predictor = Predictor(args.weights, device=args.device, threshold=args.threshold)
    record, _ = read_record(parse_pairs(args.record, "--record"), predictor.schema, "--record", typed=True)
    changes, _ = read_record(parse_pairs(args.set, "--set"), predictor.schema, "--set", typed=True)
    hidden = predictor.columns if args.hide == ["all"] else args.hide
    other = what_if.changed_record(predictor, record, changes, hidden)
    sweeps = [what_if.sweep_values(predictor, words) for words in args.sweep]
    study = predictor.prepare(args.image, record)
    (before,) = predictor.predict([study])
    targets = before.findings[: args.findings]
    names = [f"{one.class_name} ({one.score:.2f})" for one in targets]
    result: dict[str, Any] = {"note": what_if.DISCLAIMER, "image": before.image, "before": before.to_dict()}
    if args.set or hidden:
        (after,) = predictor.predict([predictor.with_record(study, other)])
        matched = [one.to_dict() for one in what_if.match_findings(before.findings, after.findings)]
        result |= {"after": after.to_dict(), "findings": matched}
        before.draw(args.out / "what_if.png", other=after, titles=["own record", describe(args.set, hidden)])
        print(change_table(matched))
    units = {column.name: column.unit for column in predictor.schema.columns}
    for column, values in sweeps:
        scores = what_if.sweep(predictor, study, record, targets, column, values)
        own = before.record[column]
        chart = sweep_chart(column, units[column], values, scores, names, own, what_if.DISCLAIMER)
        name = re.sub(r"[^\w.-]+", "_", column)  # a slash in a column's name is no folder
        write_figure(args.out / f"sweep_{name}.png", chart)
        result.setdefault("sweeps", []).append({"column": column, "values": values, "scores": scores.tolist()})
    if args.explain and targets:
        found = what_if.contributions(
            predictor, study, record, targets, method=args.explain, num_background=args.background,
            num_permutations=args.permutations, seed=args.seed,
        )  # fmt: skip
        labels = [f"{name} = {_text(study.record[name])}" for name in found.columns]
        chart = contribution_chart(found.columns, found.values, labels, names, what_if.DISCLAIMER)
        write_figure(args.out / "contributions.png", chart)
        rows = [(label, *(f"{v:+.3f}" for v in found.values[:, i])) for i, label in enumerate(labels)]
        print(markdown_table((f"contribution ({found.method})", *names), rows))
        result["contributions"] = found.to_dict()
    result["followed"] = [one.to_dict() for one in targets]
    write_json(args.out / "what_if.json", result)
    print(f"{what_if.DISCLAIMER}\nresults: {args.out / 'what_if.json'}")


def describe(changes: Sequence[str], hidden: Sequence[str]) -> str:
    """Summarize the changed and hidden columns in a few words."""
    parts = [*changes, *(f"{name} hidden" for name in hidden)]
    return ", ".join(parts) if len(parts) <= 2 else f"{parts[0]} and {len(parts) - 1} more changes"


def _text(value: Any) -> str:
    return "missing" if value is None else value if isinstance(value, str) else f"{value:g}"
