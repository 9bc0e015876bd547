"""Prepare VinDr-CXR in the layout of Kaggle or PhysioNet (age and sex).

python datasets/prepare_vindr.py --root VINDR_ROOT --out datasets/vindr --image-size 512 --readers fuse
"""

from __future__ import annotations

from mdf_detectron.cli.prepare_public import public_parser, run_preparation
from mdf_detectron.data.sources.vindr import READERS, read_vindr


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = public_parser(__doc__, "train.csv and train/ (Kaggle), or annotations/, train/ and test/ lie there")
    parser.add_argument("--readers", choices=READERS, default="keep", help="keep all boxes, or fuse (%(default)s)")
    parser.add_argument("--fuse-iou", type=float, default=0.5, help="overlap from which boxes are fused (%(default)s)")
    args = parser.parse_args(argv)
    run_preparation(args, lambda job, root: read_vindr(job, root, readers=args.readers, iou=args.fuse_iou))
