#!/usr/bin/env python3
"""Do the intervals and the paired test hold what they say?  A simulation in which the truth is known.

Coverage: share of small test sets whose 95 % interval holds the metric of the population they were drawn from; of a
model's metric, and of the difference between a model and a better one.
False positives: share of test sets on which two equally good models differ with p < 0.05.

python tools/simulate_intervals.py --runs 1000 --out output/intervals.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.interval_study import METRICS, interval_study
from tqdm import tqdm

from mdf_detectron.cli import run_main
from mdf_detectron.fileio import markdown_table, write_json


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400, help="test sets to draw (default: %(default)s)")
    parser.add_argument("--num-images", type=int, default=150, help="images of each (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=500, help="of each bootstrap (default: %(default)s)")
    parser.add_argument("--population", type=int, default=60_000, help="images that stand for the truth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("output/intervals.json"))
    args = parser.parse_args(argv)
    if min(args.runs, args.resamples) < 1 or args.num_images < 10 or args.population < args.num_images:
        parser.error("--runs and --resamples must be at least 1, --num-images 10, --population no less than that")
    runs = tqdm(range(args.runs), unit="test set", mininterval=10)
    found = interval_study(runs, args.num_images, args.resamples, args.population, args.seed)
    options = {key: getattr(args, key) for key in ("runs", "num_images", "resamples", "population", "seed")}
    write_json(args.out, {**options, **found})
    rows = [(metric, *(f"{100 * one[metric]:.1f} %" for one in found.values())) for metric in METRICS]
    print(f"{args.runs} test sets of {args.num_images} images\n")
    print(markdown_table(("by IoBB", "coverage", "coverage of a difference", "false positives at 5 %"), rows))


if __name__ == "__main__":
    run_main(main)
