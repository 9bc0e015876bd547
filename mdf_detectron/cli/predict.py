"""Predict new studies from a checkpoint alone: JSON, CSV, COCO results, pictures, DICOM structured reports.

    mdf predict --weights model.pth --images image.dcm --record age=71 gender=F --out DIR
    mdf predict --weights model.pth --images FOLDER --records table.csv --out DIR --format json csv png
    mdf predict --weights model.pth --images FOLDER --dicom-record age=PatientAge gender=PatientSex --out DIR
    mdf predict --weights model.pth --images FOLDER --annotations test.json --out DIR --format coco

DIR/findings.json lists each image with its record, what was missing, notes, and its findings (boxes x0, y0, x1, y1 in
pixels of the image). A table is read as the one that the model was trained on. DIR/errors.json names the images that
failed; the exit status is then 1. Started again, a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mdf_detectron.child_processes import when_stopped
from mdf_detectron.cli.arguments import add_model_arguments, checkpoint_file, existing_file, existing_path, parse_pairs
from mdf_detectron.errors import DatasetError, ImageReadError, UserError, shorten
from mdf_detectron.fileio import read_json, read_text, remove_partial_files
from mdf_detectron.locks import FolderLock

if TYPE_CHECKING:
    from mdf_detectron.inference.folders import RunResult, Study
    from mdf_detectron.inference.predictor import Predictor

FORMATS = ("json", "csv", "coco", "png", "dicom-sr")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", metavar="model.pth", type=checkpoint_file, required=True)
    parser.add_argument("--images", metavar="PATH", type=existing_path, nargs="+", required=True,
                        help="image files (DICOM too), folders, or .txt files with one path a line")  # fmt: skip
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--record", metavar="NAME=VALUE", nargs="+", help="one clinical record, for every image")
    source.add_argument("--records", metavar="TABLE", type=existing_file,
                        help="clinical records, one an image: .csv, .tsv, .xlsx or .parquet")  # fmt: skip
    source.add_argument("--dicom-record", metavar="COLUMN=TAG", nargs="*",
                        help="columns from DICOM tags, as age=PatientAge (default: those in training)")  # fmt: skip
    source.add_argument("--annotations", metavar="FILE.json", type=existing_file,
                        help="COCO file: its images (below the folder --images), with ids and records")  # fmt: skip
    parser.add_argument("--key", metavar="COLUMN[=KIND]",
                        help="column of --records that names the image (default: that of training)")  # fmt: skip
    parser.add_argument("--columns", metavar="NAME=COLUMN", nargs="+", default=[],
                        help="with --records: clinical column NAME is called COLUMN in the table")  # fmt: skip
    parser.add_argument("--ignore-columns", metavar="COLUMN", nargs="+", default=[],
                        help="columns of --records that are not clinical, or clinical ones that it lacks")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["json"], help="(default: json)")
    add_model_arguments(parser, force=True)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        help="images of one forward pass; in it, views with the same record share the clinical branch's work "
        "(default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.records is None and (args.key or args.columns or args.ignore_columns):
        parser.error("--key, --columns and --ignore-columns go with --records")
    if args.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from mdf_detectron.inference.folders import run_predictions
    from mdf_detectron.inference.predictor import Predictor
    from mdf_detectron.serving.structured_report import write_structured_report

    predictor = Predictor(args.weights, device=args.device, threshold=args.threshold, force=args.force, half=args.half)
    studies, said = (annotated_studies(args), []) if args.annotations else listed_studies(args, predictor)
    kept = f"what is predicted is kept in {args.out}; run the same command again to continue"
    with FolderLock(args.out), when_stopped(lambda text: f"{text}; {kept}"):
        remove_partial_files(args.out, *args.out.glob("*/"))
        result = run_predictions(
            predictor, studies, args.out, args.format, batch_size=args.batch_size, write_report=write_structured_report
        )
    report(result, said, args, predictor)


def listed_studies(args: argparse.Namespace, predictor: Predictor) -> tuple[list[Study], list[str]]:
    """List the studies of --images with their records; also return what the report says about the records."""
    from mdf_detectron.data.sources.kit.values import read_record
    from mdf_detectron.data.study_records import FoundRecord, dicom_record, dicom_tags, table_records
    from mdf_detectron.inference.folders import Study

    paths, skipped = find_images(args.images)
    if skipped:
        print(f"{skipped} file(s) in the folders are no images by their name; left out")
    schema, said = predictor.schema, []
    if args.records:
        folders = args.images if len(args.images) == 1 and args.images[0].is_dir() else [p.parent for p in paths]
        options = {"key": args.key, "columns": parse_pairs(args.columns, "--columns"), "ignored": args.ignore_columns}
        folder = Path(os.path.commonpath([os.path.abspath(f) for f in folders]))
        found, said = table_records(args.records, paths, folder, schema, **options)
        if notes := sum(len(one.notes) for one in found):
            said.append(
                f"{notes} value(s) of it could not be read and were missing to the model; findings.json names them"
            )
    elif args.dicom_record is not None:
        tags = dicom_tags(parse_pairs(args.dicom_record, "--dicom-record"), schema)
        found = [lambda image: dicom_record(image, tags, schema)] * len(paths)
    else:
        typed = parse_pairs(args.record or (), "--record")
        found = [FoundRecord(read_record(typed, schema, "--record", typed=True)[0])] * len(paths)
    return [Study(p, str(p), n, one) for n, (p, one) in enumerate(zip(paths, found, strict=True), start=1)], said


def find_images(given: list[Path]) -> tuple[list[Path], int]:
    """Resolve files, folders and .txt lists; return the images and the number of other files in the folders."""
    from mdf_detectron.data.image_paths import list_images

    found: list[Path] = []
    skipped = 0
    for path in given:
        if path.is_dir():
            images, others = list_images(path)
            found += images
            skipped += others
        elif path.suffix.lower() == ".txt":
            found += [Path(line.strip()) for line in read_text(path, ImageReadError).splitlines() if line.strip()]
        else:
            found.append(path)
    if not found:
        raise ImageReadError(f"no image in {', '.join(map(str, given))}")
    return list(dict.fromkeys(found)), skipped


def annotated_studies(args: argparse.Namespace) -> list[Study]:
    """List the studies of a COCO file, with their records."""
    from mdf_detectron.data.annotations import check_annotations
    from mdf_detectron.data.study_records import FoundRecord
    from mdf_detectron.inference.folders import Study

    data = read_json(args.annotations, DatasetError, nan=True)
    if isinstance(data, dict):
        data |= {"annotations": [], "categories": []}  # only the images matter here
    images = check_annotations(data, args.annotations, prepared=False).images
    if nameless := [image["id"] for image in images if not isinstance(image.get("file_name"), str)]:
        raise DatasetError(f"{args.annotations}: image {shorten(nameless[0])} has no file_name; add it")
    if len(args.images) != 1 or not args.images[0].is_dir():
        raise DatasetError("--annotations needs one folder in --images: the one that its file names start in")

    return [Study(args.images[0] / i["file_name"], i["file_name"], i["id"], FoundRecord(i.get("clinical")))
            for i in images]  # fmt: skip


def report(result: RunResult, said: list[str], args: argparse.Namespace, predictor: Predictor) -> None:
    """Print the counts; raise :class:`UserError` if any image failed."""
    print(f"{result.predicted} image(s) predicted, {result.resumed} were there already: {args.out / 'findings.json'}")
    print(f"findings above the threshold: {sum(result.findings)}; {result.findings.count(0)} image(s) have none")
    if predictor.columns and result.without_record:
        print(f"{result.without_record} of them had no clinical record; all of its values were missing to the model")
    for line in said:
        print(line)
    if result.errors:
        from mdf_detectron.inference.folders import first_error

        raise UserError(f"{first_error(result.errors)} (all in {args.out / 'errors.json'})")
