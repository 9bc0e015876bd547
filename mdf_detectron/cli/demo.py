"""The demo: a model with the record against one without, late fusion and oracles, on synthetic data; with pictures."""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("output/demo"))
    parser.add_argument("--num-patients", type=int, default=700)
    parser.add_argument("--signal", type=float, default=1.0, help="how much the synthetic records tell; 0: nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides of both trainings, KEY VALUE")
    args = parser.parse_args(argv)
    from mdf_detectron.experiments.demo import run_demo

    run_demo(args.out, num_patients=args.num_patients, signal=args.signal, seed=args.seed, opts=args.opts)
