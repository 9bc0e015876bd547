"""Make the embedded synthetic data set: radiographs whose findings only the clinical record can tell apart.

python datasets/prepare_synthetic.py --out datasets/synthetic_cxr --num-patients 600 --seed 1 --signal 1.0
"""

from __future__ import annotations

import argparse

from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.prepare import prepare_synthetic


def parse_args(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--num-patients", type=int, required=True, help="patients (about 1.5 images each)")
    parser.add_argument("--seed", type=int, required=True, help="everything follows from it")
    parser.add_argument("--signal", type=float, default=1.0, help="lambda: 0 makes the table useless (default 1)")
    parser.add_argument("--ambiguity", type=float, default=0.8, help="share of findings without a visual cue")
    parser.add_argument("--missing", type=float, default=0.1, help="share of visits without vitals")
    parser.add_argument("--image-size", type=int, default=512, help="longer side of an image, pixels")
    parser.add_argument("--num-workers", type=int, default=2, help="drawing processes")
    args = parser.parse_args(argv)
    return parser, args


def main(argv: list[str] | None = None) -> None:
    parser, args = parse_args(argv)
    try:
        cohort = CohortSettings(
            args.num_patients, args.seed, args.signal, args.ambiguity, args.image_size, args.missing
        )
        made = prepare_synthetic(args.out, cohort, args.num_workers)
    except (ValueError, FileExistsError) as error:
        parser.exit(1, f"prepare_synthetic: {error}\n")
    print(f"{args.out}: {'written' if made else 'already up to date'} (see report.md there)")
