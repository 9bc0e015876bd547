#!/usr/bin/env python3
"""The most that detectors could reach on the embedded synthetic set: image alone, late fusion, image and record.

    mdf prepare synthetic --out datasets/interaction --num-patients 700 --seed 1 --image-size 160 --interaction 1
    python tools/synthetic_oracle.py datasets/interaction

Late fusion is the image-only oracle, its odds multiplied by what the record alone says about the presence of a class.
"""

import argparse
from contextlib import redirect_stdout
from pathlib import Path

from mdf_detectron.cli import run_main
from mdf_detectron.data.synthetic.oracle import ORACLES, oracle_predictions
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.fileio import markdown_table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, nargs="+", help="made by mdf prepare synthetic")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    args = parser.parse_args(argv)
    rows = []
    for folder in args.prepared:
        for oracle in ORACLES:
            with redirect_stdout(None):
                found = evaluate_coco(
                    folder / "annotations" / f"{args.split}.json", oracle_predictions(folder, args.split, oracle)
                )
            by_iobb = {k.removeprefix("AP50-"): v for k, v in found["bbox_iobb"].items() if k.startswith("AP50")}
            values = {"AP50 IoBB": by_iobb.pop("AP50"), "AP50 IoU": found["bbox"]["AP50"], **by_iobb}
            rows.append((folder.name, oracle, *(f"{v:.1f}" for v in values.values())))
    print(markdown_table(("data", "oracle", *values), rows))


if __name__ == "__main__":
    run_main(main)
