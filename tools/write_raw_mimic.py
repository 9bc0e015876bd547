#!/usr/bin/env python3
"""Write a synthetic cohort as files of PhysioNet, with realistic errors, for ``mdf prepare mimic-eye``.

python tools/write_raw_mimic.py --out output/raw --num-patients 200 --seed 1
python tools/write_raw_mimic.py --out output/tables --num-patients 300000 --tables-only --seed 1  # the real size
"""

import argparse

from raw_mimic.history import RawSettings
from raw_mimic.tree import write_raw_tree

from mdf_detectron.cli import run_main
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.prepare import add_options


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the folder to write")
    add_options(parser)
    parser.add_argument("--tables-only", action="store_true", help="no images, few readings")
    parser.add_argument("--dirt", type=float, default=1.0, help="factor on the errors of the triage table")
    parser.add_argument("--reader-noise", type=float, default=1.0, help="factor on the readers' mistakes")
    args = parser.parse_args(argv)
    cohort = CohortSettings(args.num_patients, args.seed, args.signal, args.ambiguity, args.image_size, args.missing)
    settings = RawSettings(cohort, args.dirt, args.reader_noise, args.tables_only)
    made = write_raw_tree(args.out, settings, args.num_workers)
    print(f"{args.out}: {'written' if made else 'already up to date'} (see report.md there)")


if __name__ == "__main__":
    run_main(main)
