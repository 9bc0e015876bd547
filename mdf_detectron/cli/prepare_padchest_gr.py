"""Prepare PadChest-GR (findings of reports with boxes; age and sex).

python datasets/prepare_padchest_gr.py --root PADCHEST_GR_ROOT --out datasets/padchest_gr --image-size 512
"""

from __future__ import annotations

from mdf_detectron.cli.prepare_public import public_parser, run_preparation
from mdf_detectron.data.sources.padchest_gr import read_padchest_gr


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = public_parser(__doc__, "grounded_reports_20240819.json, master_table.csv and the images lie there")
    parser.add_argument("--min-images", type=int, default=10, help="rarer labels become 'other' (%(default)s)")
    args = parser.parse_args(argv)
    run_preparation(args, lambda job, root: read_padchest_gr(job, root, min_images=args.min_images))
