"""Prepare MIMIC chest radiographs with triage records and readers' boxes (credentialed PhysioNet access).

python datasets/prepare_mimic_eye.py --physionet ROOT --out datasets/mimic_eye
python datasets/prepare_mimic_eye.py --mimic-eye ROOT --out datasets/mimic_eye --image-size 512
"""

from __future__ import annotations

import argparse
import logging

from mdf_detectron.cli.prepare_public import add_privacy_options, announce, privacy_of
from mdf_detectron.data.sources.mimic.annotations import MASK_SHAPES
from mdf_detectron.data.sources.mimic.layout import TABLES, mimic_eye_files, physionet_files
from mdf_detectron.data.sources.mimic.options import PROTOCOLS, RECORDS, VIEWS, MimicOptions
from mdf_detectron.data.sources.mimic.prepare import prepare_mimic
from mdf_detectron.data.sources.mimic.schema import MIMIC_CLASSES
from mdf_detectron.errors import UserError

PATHS = (*TABLES, "reflacx", "images")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--physionet", metavar="ROOT", help="folder with mimiciv/, mimic-iv-ed/, mimic-cxr-jpg/ …")
    source.add_argument("--mimic-eye", metavar="ROOT", help="folder with patient_<subject_id>/ and spreadsheets/")
    parser.add_argument("--out", required=True, help="the prepared folder to write")
    for name in PATHS:
        parser.add_argument(f"--{name}", metavar="PATH", help=f"where {name} lies instead (with --physionet)")
    parser.add_argument("--stay-window-days", type=float, default=7, help="after departure; 0: inside a visit only")
    parser.add_argument("--keep-unmatched", action="store_true", help="keep images without a visit (age, gender only)")
    parser.add_argument("--classes", nargs="+", default=MIMIC_CLASSES, help="labels (default: the paper's five)")
    parser.add_argument("--min-certainty", type=int, default=3, help="of a box, 1 (unlikely) to 5 (default 3)")
    parser.add_argument("--mask-shape", choices=MASK_SHAPES, default="ellipse")
    parser.add_argument("--records", choices=RECORDS, default="reading", help="one a reading, or one an image")
    parser.add_argument("--view", choices=VIEWS, default="frontal", help="frontal: AP and PA only")
    parser.add_argument("--drop-discarded", action="store_true", help="drop readings whose eye tracking was discarded")
    parser.add_argument("--image-size", type=int, help="resize the images once, to this shorter side; default: links")
    parser.add_argument("--seed", type=int, default=1, help="of the splits")
    parser.add_argument("--folds", type=int, default=0, help="also write so many cross-validation folders")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="patient", help="paper: the authors' choices; leaks")
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="stop with all problems, or leave entries out and count them",
    )
    parser.add_argument("--num-workers", type=int, default=2, help="that check or resize images")
    add_privacy_options(parser)
    args = parser.parse_args(argv)
    if args.mimic_eye and any(getattr(args, name) for name in PATHS):
        parser.error(f"{', '.join('--' + n for n in PATHS)} go with --physionet")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        overrides = {name: getattr(args, name) for name in PATHS}
        files = mimic_eye_files(args.mimic_eye) if args.mimic_eye else physionet_files(args.physionet, overrides)
        options = MimicOptions(
            stay_window_days=args.stay_window_days,
            keep_unmatched=args.keep_unmatched,
            classes=tuple(args.classes),
            min_certainty=args.min_certainty,
            mask_shape=args.mask_shape,
            records=args.records,
            view=args.view,
            drop_discarded=args.drop_discarded,
            image_size=args.image_size,
            seed=args.seed,
            folds=args.folds,
            protocol=args.protocol,
        )
        made = prepare_mimic(
            files,
            args.out,
            options,
            on_error=args.on_error,
            num_workers=args.num_workers,
            privacy=privacy_of(args),
        )
    except (UserError, OSError) as error:
        raise SystemExit(f"prepare_mimic_eye: {error}") from None
    announce(args.out, made)
