"""Make the embedded synthetic data set: radiographs whose findings only the clinical record can tell apart.

python datasets/prepare_synthetic.py --out datasets/synthetic_cxr --num-patients 600 --seed 1 --signal 1.0
python datasets/prepare_synthetic.py --out output/raw --num-patients 200 --seed 1 --raw   # as PhysioNet's files
"""

from __future__ import annotations

import argparse

from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.data.synthetic.raw.history import RADIOGRAPHS_PER_PATIENT, RawSettings
from mdf_detectron.data.synthetic.raw.tree import write_raw_tree


def parse_args(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--num-patients", type=int, help="patients (about 1.5 images each)")
    parser.add_argument("--seed", type=int, required=True, help="everything follows from it")
    parser.add_argument("--signal", type=float, default=1.0, help="lambda: 0 makes the table useless (default 1)")
    parser.add_argument("--ambiguity", type=float, default=0.8, help="share of findings without a visual cue")
    parser.add_argument("--missing", type=float, default=0.1, help="share of visits without vitals")
    parser.add_argument("--image-size", type=int, default=512, help="longer side of an image, pixels")
    parser.add_argument("--num-workers", type=int, default=2, help="drawing processes")
    raw = parser.add_argument_group("source files instead of a prepared folder")
    raw.add_argument("--raw", action="store_true", help="write PhysioNet's tree and MIMIC-Eye's, with realistic errors")
    raw.add_argument("--tables-only", action="store_true", help="with --raw: no images, few readings")
    raw.add_argument("--num-films", type=int, help="with --raw: rows of the image table")
    raw.add_argument("--dirt", type=float, default=1.0, help="with --raw: factor on the errors of the triage table")
    raw.add_argument("--reader-noise", type=float, default=1.0, help="with --raw: factor on the readers' mistakes")
    args = parser.parse_args(argv)
    args.raw = args.raw or args.tables_only
    if args.num_patients is None and args.raw and args.num_films:
        args.num_patients = max(16, round(args.num_films / RADIOGRAPHS_PER_PATIENT))
    if args.num_patients is None:
        parser.error("--num-patients is needed (or, with --raw, --num-films)")
    if args.num_films and not args.raw:
        parser.error("--num-films goes with --raw or --tables-only")
    return parser, args


def main(argv: list[str] | None = None) -> None:
    parser, args = parse_args(argv)
    try:
        cohort = CohortSettings(
            args.num_patients, args.seed, args.signal, args.ambiguity, args.image_size, args.missing
        )
        if args.raw:
            settings = RawSettings(cohort, args.num_films, args.dirt, args.reader_noise, args.tables_only)
            made = write_raw_tree(args.out, settings, args.num_workers)
        else:
            made = prepare_synthetic(args.out, cohort, args.num_workers)
    except (ValueError, FileExistsError) as error:
        parser.exit(1, f"prepare_synthetic: {error}\n")
    print(f"{args.out}: {'written' if made else 'already up to date'} (see report.md there)")
