"""Prepare MS-CXR (boxes of report phrases) with MIMIC's triage values (credentialed PhysioNet access).

python datasets/prepare_ms_cxr.py --root PHYSIONET_ROOT --out datasets/ms_cxr --image-size 512
"""

from __future__ import annotations

from mdf_detectron.cli.prepare_public import public_parser, run_preparation
from mdf_detectron.data.sources.mimic.layout import TABLES
from mdf_detectron.data.sources.ms_cxr import read_ms_cxr

PATHS = (*TABLES, "images")


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = public_parser(__doc__, "folder with ms-cxr/, mimiciv/, mimic-iv-ed/ and mimic-cxr-jpg/")
    parser.add_argument("--boxes", metavar="PATH", help="where MS-CXR's table of boxes lies instead")
    for name in PATHS:
        parser.add_argument(f"--{name}", metavar="PATH", help=f"where {name} lies instead")
    parser.add_argument("--stay-window-days", type=float, default=7, help="after departure; 0: inside a visit only")
    parser.add_argument("--keep-unmatched", action="store_true", help="keep images without a visit (age, gender only)")
    args = parser.parse_args(argv)
    choices = {
        "boxes": args.boxes,
        "overrides": {name: getattr(args, name) for name in PATHS},
        "stay_window_days": args.stay_window_days,
        "keep_unmatched": args.keep_unmatched,
    }
    run_preparation(args, lambda job, root: read_ms_cxr(job, root, **choices))
