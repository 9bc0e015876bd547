"""One model trained with several seeds, or two: mean, spread and interval over the seeds, and the difference.

    tools/compare_seeds.py --results A1/results.json A2/results.json A3/results.json --out DIR
    tools/compare_seeds.py --results A*/results.json --against B*/results.json --names mask_rcnn mdf_net --out DIR

The files are results.json of tools/train_net.py, or metrics.json of tools/evaluate.py, one a seed, on the same test
split.  Writes DIR/seeds.json, seeds.md, seeds.csv and seeds.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mdf_detectron.errors import UserError
from mdf_detectron.fileio import write_figure, write_json, write_text
from mdf_detectron.report.seeds import read_runs, seed_chart, seed_table, summarize_seeds


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", metavar="FILE", nargs="+", type=Path, required=True, help="a model's, one a seed")
    parser.add_argument("--against", metavar="FILE", nargs="+", type=Path, help="a second model's: second minus first")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="of the models (default: first, second)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    groups = [args.results, *([args.against] if args.against else [])]
    names = args.names or ["first", "second"][: len(groups)]
    if len(names) != len(groups) or len(set(names)) < len(names):
        raise UserError(f"--names needs {len(groups)} different name(s), got {names}")
    summary = summarize_seeds({name: read_runs(files) for name, files in zip(names, groups, strict=True)})
    table = seed_table(summary)
    text = f"# {table.title}\n\n{table.to_markdown()}\n\n{table.note}\n\n![runs](seeds.png)\n"
    if summary["left_out"]:
        text += f"\nNot defined in all runs, so left out: {', '.join(summary['left_out'])}.\n"
    write_json(args.out / "seeds.json", summary)
    write_text(args.out / "seeds.csv", table.to_csv())
    write_figure(args.out / "seeds.png", seed_chart(summary))
    write_text(args.out / "seeds.md", text)
    print(text)
