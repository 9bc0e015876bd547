"""Describe a prepared folder before training: boxes, columns, missing values, associations, images that look alike.

mdf describe datasets/mine --out output/mine.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mdf_detectron.cli.arguments import prepared_folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=prepared_folder, help="a prepared folder")
    parser.add_argument("--out", metavar="FILE", help="page to write (default: output/NAME/dataset.html)")
    parser.add_argument("--num-workers", type=int, default=2, help="threads that read images (%(default)s)")
    args = parser.parse_args(argv)
    from mdf_detectron.data.description import describe_folder
    from mdf_detectron.report.dataset import write_dataset_page

    description = describe_folder(args.folder, args.num_workers)
    name = Path(args.folder).resolve().name
    page = write_dataset_page(args.out or Path("output") / name / "dataset.html", description)
    alike = description.alike
    print(f"{page}: written; {alike.total} pairs of images look alike, {alike.across_splits} across splits")
