#!/usr/bin/env python3
"""Feed broken and hostile inputs to every boundary, and count what happens.

tools/fuzz.py --inputs 10000
tools/fuzz.py --boundary image --only 417 --seed 3
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from fuzzing.boundaries import BOUNDARIES
from fuzzing.boundary import ACCEPTED, FAILURES, REFUSED, Outcome
from fuzzing.runner import run_boundary
from tqdm import tqdm

from mdf_detectron.cli import run_main
from mdf_detectron.fileio import markdown_table, write_text

KINDS = (ACCEPTED, REFUSED, *FAILURES)


def table(counts: dict[str, Counter[str]]) -> str:
    """Format the outcomes, a row a boundary."""
    rows = [(name, sum(found.values()), *(found[kind] for kind in KINDS)) for name, found in counts.items()]
    total = ("all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))
    header = ("boundary", "tried", "accepted and sound", "refused in one line", *KINDS[2:])
    return markdown_table(header, [*rows, total])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="of all boundaries together (default: %(default)s)")
    parser.add_argument("--boundary", action="append", choices=list(BOUNDARIES), help="may be repeated (default: all)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one input of one boundary, its message printed")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the table and every failing input's number and message")
    args = parser.parse_args(argv)
    names = args.boundary or list(BOUNDARIES)
    numbers = [args.only] if args.only is not None else range(max(1, args.inputs // len(names)))
    counts: dict[str, Counter[str]] = {}
    failing: list[tuple[str, int, Outcome]] = []
    for name in names:
        counts[name] = Counter()
        for number, outcome in tqdm(run_boundary(BOUNDARIES[name], numbers, args.seed), name, len(numbers)):
            counts[name][outcome.kind] += 1
            if outcome.kind in FAILURES:
                failing.append((name, number, outcome))
            if args.only is not None:
                print(f"{name} {number}: {outcome.kind} in {outcome.seconds:.2f} s\n{outcome.text}")
    lines = [f"{name} {number}: {outcome.kind}\n{outcome.text}\n" for name, number, outcome in failing]
    text = f"{table(counts)}\nseed {args.seed}\n\n" + "\n".join(lines)
    print(text if len(lines) <= 20 else text[:20_000])
    if args.out:
        write_text(args.out, text)
    return int(bool(failing))


if __name__ == "__main__":
    run_main(main)
