"""Change values of one study's clinical record and see each finding move; explain findings by columns.

    mdf whatif --weights model.pth --image image.png --record age=71 o2sat=88 --out DIR --set o2sat=98
    mdf whatif ... --hide o2sat --sweep temperature 95 104 10 --explain shapley

Writes DIR/what_if.json, DIR/what_if.png (before and after), DIR/sweep_COLUMN.png and DIR/contributions.png. What is
shown is the model's association, and no cause.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.study_records import parse_pairs
from mdf_detectron.errors import DatasetError
from mdf_detectron.fileio import markdown_table, write_figure, write_json
from mdf_detectron.inference.contributions import METHODS, NUM_BACKGROUND, NUM_PERMUTATIONS, contributions
from mdf_detectron.inference.findings import DetectedFinding
from mdf_detectron.inference.predictor import Predictor, PreparedStudy
from mdf_detectron.inference.what_if import DISCLAIMER, changed_record, match_findings, sweep
from mdf_detectron.report.what_if import contribution_chart, sweep_chart


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", metavar="model.pth", type=Path, required=True)
    parser.add_argument("--image", metavar="PATH", type=Path, required=True)
    parser.add_argument("--record", metavar="NAME=VALUE", nargs="+", default=[], help="the study's own record")
    parser.add_argument("--set", metavar="NAME=VALUE", nargs="+", default=[], help="values to change")
    parser.add_argument("--hide", metavar="NAME", nargs="+", default=[], help="columns to make missing ('all': all)")
    parser.add_argument("--sweep", metavar=("COLUMN", "VALUES"), nargs="+", action="append", default=[],
                        help="COLUMN FROM TO COUNT (numeric), or COLUMN (categorical: every value)")  # fmt: skip
    parser.add_argument("--explain", choices=METHODS, help="contribution of each column to each finding")
    parser.add_argument("--background", type=int, default=NUM_BACKGROUND, metavar="N",
                        help="records drawn from the training distribution (default: %(default)s)")  # fmt: skip
    parser.add_argument("--permutations", type=int, default=NUM_PERMUTATIONS, metavar="N",
                        help="of --explain shapley (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--findings", type=int, default=4, metavar="N", help="findings to follow (default: %(default)s)"
    )
    parser.add_argument("--threshold", type=float, help="operating threshold (default: the checkpoint's, else 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="of --explain (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: a GPU where there is one)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    args = parser.parse_args(argv)
    if not (args.set or args.hide or args.sweep or args.explain):
        parser.error("nothing to do: give --set, --hide, --sweep or --explain")
    if min(args.background, args.permutations, args.findings) < 1:
        parser.error("--background, --permutations and --findings must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    predictor = Predictor(args.weights, device=args.device, threshold=args.threshold)
    record = dict(parse_pairs(args.record, "--record"))
    hidden = predictor.columns if args.hide == ["all"] else args.hide
    other = changed_record(predictor, record, dict(parse_pairs(args.set, "--set")), hidden)
    predictor.check_record(other, "the changed record")
    sweeps = [sweep_values(predictor, words) for words in args.sweep]
    study = predictor.prepare(args.image, record)
    (before,) = predictor.predict([study])
    targets = before.findings[: args.findings]
    result: dict[str, Any] = {"note": DISCLAIMER, "image": before.image, "before": before.to_dict()}
    if args.set or hidden:
        (after,) = predictor.predict([predictor.with_record(study, other)])
        matched = [one.to_dict() for one in match_findings(before.findings, after.findings)]
        result |= {"after": after.to_dict(), "findings": matched}
        before.draw(args.out / "what_if.png", other=after, titles=["own record", describe(args.set, hidden)])
        print(change_table(matched))
    for column, values in sweeps:
        scores = sweep(predictor, study, record, targets, column, values)
        chart = sweep_figure(predictor, before.record, column, values, scores, targets)
        write_figure(args.out / f"sweep_{column}.png", chart)
        result.setdefault("sweeps", []).append({"column": column, "values": values, "scores": scores.tolist()})
    if args.explain and targets:
        result["contributions"] = explain(args, predictor, study, record, targets)
    result["followed"] = [one.to_dict() for one in targets]
    write_json(args.out / "what_if.json", result)
    print(f"{DISCLAIMER}\nresults: {args.out / 'what_if.json'}")


def sweep_values(predictor: Predictor, words: Sequence[str]) -> tuple[str, list[Any]]:
    """Read one --sweep option."""
    column = {c.name: c for c in predictor.schema.columns}.get(words[0])
    if column is None or words[0] not in predictor.columns:
        raise DatasetError(f"--sweep {words[0]}: the model reads {predictor.columns or 'the image only'}")
    if column.kind == "categorical":
        values: list[Any] = list(words[1:]) or list(column.vocabulary)
    else:
        try:
            first, last, count = float(words[1]), float(words[2]), int(words[3])
            if len(words) != 4 or not 2 <= count <= 200:
                raise ValueError
        except (ValueError, IndexError):
            raise DatasetError(f"--sweep {' '.join(words)}: expected COLUMN FROM TO COUNT, COUNT 2 to 200") from None
        values = [float(v) for v in np.linspace(first, last, count)]
    for value in values:
        column.parse(value, "--sweep")
    return column.name, values


def describe(changes: Sequence[str], hidden: Sequence[str]) -> str:
    """Name the changes, short."""
    parts = [*changes, *(f"{name} hidden" for name in hidden)]
    return ", ".join(parts) if len(parts) <= 2 else f"{parts[0]} and {len(parts) - 1} more changes"


def change_table(matched: Sequence[Mapping[str, Any]]) -> str:
    """Table of the findings before and after."""

    def shown(one: Mapping[str, Any], when: str) -> str:
        score = one[f"score_{when}"]
        return "–" if score is None else f"{score:.3f}{' *' if one[f'above_threshold_{when}'] else ''}"

    rows = [(one["class"], *(shown(one, when) for when in ("before", "after"))) for one in matched]
    return markdown_table(("finding (* above its threshold)", "before", "after"), rows)


def names_of(targets: Sequence[DetectedFinding]) -> list[str]:
    """Name findings for a chart."""
    return [f"{one.class_name} ({one.score:.2f})" for one in targets]


def sweep_figure(predictor, own: Mapping[str, Any], column: str, values, scores: np.ndarray, targets):
    """Draw one sweep."""
    unit = {c.name: c.unit for c in predictor.schema.columns}[column]
    return sweep_chart(column, unit, values, scores, names_of(targets), own[column], DISCLAIMER)


def _text(value: Any) -> str:
    return "missing" if value is None else value if isinstance(value, str) else f"{value:g}"


def explain(
    args: argparse.Namespace,
    predictor: Predictor,
    study: PreparedStudy,
    record: Mapping[str, Any],
    targets: Sequence[DetectedFinding],
) -> dict[str, Any]:
    """Compute, draw and print the contributions of columns."""
    found = contributions(
        predictor, study, record, targets, method=args.explain, num_background=args.background,
        num_permutations=args.permutations, seed=args.seed,
    )  # fmt: skip
    labels = [f"{name} = {_text(study.record[name])}" for name in found.columns]
    figure = contribution_chart(found.columns, found.values, labels, names_of(targets), DISCLAIMER)
    write_figure(args.out / "contributions.png", figure)
    rows = [(label, *(f"{v:+.3f}" for v in found.values[:, i])) for i, label in enumerate(labels)]
    print(markdown_table((f"contribution ({found.method})", *names_of(targets)), rows))
    return {
        "method": found.method,
        "columns": found.columns,
        "values": found.values.tolist(),
        "scores": found.scores.tolist(),
        "background_scores": found.background.tolist(),
    }
