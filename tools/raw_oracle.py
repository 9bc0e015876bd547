#!/usr/bin/env python3
"""The most a detector could reach on a folder prepared from the synthetic raw tree: image alone, and with the record.

    python tools/write_raw_mimic.py --out raw --num-patients 3000 --seed 12 --signal 1.0 --image-size 224
    mdf prepare mimic-eye --physionet raw/physionet --out datasets/mimic_eye --image-size 192
    python tools/raw_oracle.py --prepared datasets/mimic_eye --raw raw

The oracle knows how the data were drawn and sees what a model sees; it also trusts a record that belongs to another
patient, so its loss by exchanged records is about what a model that reads the record as it should can lose.
"""

import argparse
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from raw_mimic.oracle import raw_oracle_predictions

from mdf_detectron.cli import run_main
from mdf_detectron.evaluation import evaluate_coco


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="made by mdf prepare mimic-eye")
    parser.add_argument("--raw", type=Path, required=True, help="written by tools/write_raw_mimic.py")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--exchanges", type=int, default=3, help="of the records between patients (default: 3)")
    args = parser.parse_args(argv)
    if args.exchanges < 0:
        parser.error(f"--exchanges is {args.exchanges}; use 0 or more")

    def ap50(use_record: bool, exchange: int | None = None) -> float:
        predictions = raw_oracle_predictions(args.prepared, args.raw, args.split, use_record, exchange)
        truth = args.prepared / "annotations" / f"{args.split}.json"
        with redirect_stdout(None):
            return evaluate_coco(truth, predictions)["bbox_iobb"]["AP50"]

    print(f"AP50 by IoBB of the oracle, {args.split} split")
    print(f"  image alone                     {ap50(False):5.1f}")
    print(f"  with the record                 {ap50(True):5.1f}")
    if args.exchanges:
        mean = np.mean([ap50(True, seed) for seed in range(args.exchanges)])
        print(f"  with records of other patients  {mean:5.1f}  (mean of {args.exchanges} exchanges)")


if __name__ == "__main__":
    run_main(main)
