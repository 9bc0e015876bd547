"""Describe a prepared folder before training: boxes, columns, what the record alone tells, images that look alike.

mdf describe datasets/mine --out output/mine.html
"""

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
    from mdf_detectron.evaluation.coco import GroundTruth
    from mdf_detectron.evaluation.estimates import estimate
    from mdf_detectron.evaluation.record_alone import record_alone
    from mdf_detectron.report.dataset import write_dataset_page

    description = describe_folder(args.folder, args.num_workers)
    schema, train = description.schema, GroundTruth.load(description.splits["train"])
    alone = record_alone(train, schema) if schema.columns else None
    name = Path(args.folder).resolve().name
    page = write_dataset_page(args.out or Path("output") / name / "dataset.html", description, alone)
    alike = description.alike
    print(f"{page}: written; {alike.total} pairs of images look alike, {alike.across_splits} across splits")
    if alone:
        told = ", ".join(f"{name} {estimate(row, 2)}" for name, row in alone.rows["record"].items())
        print(f"AUC of the record alone: {told}", *alone.warnings, sep="\n")
