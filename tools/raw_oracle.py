#!/usr/bin/env python3
"""The most a detector could reach on a folder prepared from the synthetic raw tree: image alone, and with the record.

    python tools/write_raw_mimic.py --out raw --num-patients 3000 --seed 12 --signal 1.0 --image-size 224
    mdf prepare mimic-eye --physionet raw/physionet --out datasets/mimic_eye --image-size 192
    python tools/raw_oracle.py --prepared datasets/mimic_eye --raw raw

The oracle knows how the data were drawn and sees what a model sees; it also trusts a record that belongs to another
patient, so its loss by exchanged records is about what a model that reads the record as it should can lose.  A model
may lose more where it doubts what it sees or overrates the record; --readings says how much more, and what it costs.
"""

from __future__ import annotations

import argparse
import itertools
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from raw_mimic.oracle import raw_oracle_predictions
from tqdm import tqdm

from mdf_detectron.cli import run_main
from mdf_detectron.data.synthetic.oracle import RIGHT_READING, Reading
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.fileio import markdown_table

DOUBTS, WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0), (0.5, 1.0, 2.0, 4.0)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="made by mdf prepare mimic-eye")
    parser.add_argument("--raw", type=Path, required=True, help="written by tools/write_raw_mimic.py")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--exchanges", type=int, default=3, help="of the records between patients (default: 3)")
    parser.add_argument("--readings", action="store_true", help="also oracles that weigh look and record wrongly")
    args = parser.parse_args(argv)
    if args.exchanges < (1 if args.readings else 0):
        parser.error(f"--exchanges is {args.exchanges}; use 0 or more, with --readings 1 or more")

    def ap50(use_record: bool, exchange: int | None = None, reading: Reading = RIGHT_READING) -> float:
        predictions = raw_oracle_predictions(args.prepared, args.raw, args.split, use_record, exchange, reading)
        truth = args.prepared / "annotations" / f"{args.split}.json"
        with redirect_stdout(None):
            return evaluate_coco(truth, predictions)["bbox_iobb"]["AP50"]

    def exchanged(reading: Reading = RIGHT_READING) -> float:
        return float(np.mean([ap50(True, seed, reading) for seed in range(args.exchanges)]))

    print(f"AP50 by IoBB of the oracle, {args.split} split")
    print(f"  image alone                     {ap50(False):5.1f}")
    print(f"  with the record                 {ap50(True):5.1f}")
    if args.exchanges:
        print(f"  with records of other patients  {exchanged():5.1f}  (mean of {args.exchanges} exchanges)")
    if args.readings:
        rows = []
        for doubt, weight in tqdm(list(itertools.product(DOUBTS, WEIGHTS)), unit="reading"):
            reading = Reading(doubt, weight)
            own, others = ap50(True, reading=reading), exchanged(reading)
            rows.append((doubt, weight, f"{own:.1f}", f"{others:.1f}", f"{own - others:.1f}"))
        print(markdown_table(("look doubted", "record's weight", "own record", "another's", "lost"), rows))


if __name__ == "__main__":
    run_main(main)
