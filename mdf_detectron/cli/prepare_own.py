"""Prepare your own data: images of any kind (DICOM too), boxes as COCO JSON or a table, and a table of clinical values.

python datasets/prepare_own.py --annotations boxes.json --images scans/ --table labs.csv --key File --patient MRN \\
    --columns 'Age:age Lactate Sex:sex{male=M,female=F}' --image-size 512 --out datasets/mine

Everything that is changed or left out is counted in report.md of the folder. Without --schema a schema is proposed as
its clinical_schema.yaml: edit a copy and prepare again with --schema COPY.
"""

from __future__ import annotations

import argparse

from mdf_detectron.cli.prepare_public import add_writing_options, announce, privacy_of, writing_options
from mdf_detectron.data.sources.own.boxes import ROLES
from mdf_detectron.data.sources.own.options import BOX_UNITS, KEY_KINDS, OwnOptions, parse_columns
from mdf_detectron.data.sources.own.prepare import prepare_own
from mdf_detectron.errors import SourceDataError


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--annotations",
        nargs="+",
        required=True,
        metavar="FILE",
        help="COCO JSON (several: classes are matched by name), or a table with a row a box",
    )
    files.add_argument("--images", required=True, metavar="DIR", help="folder of the images, searched with subfolders")
    files.add_argument("--table", metavar="FILE", help="clinical values: .csv, .tsv, .xlsx or .parquet")
    files.add_argument("--schema", metavar="FILE", help="of the columns (default: one is proposed)")
    files.add_argument("--out", required=True, metavar="DIR", help="the prepared folder to write")
    files.add_argument("--title", help="of the report (default: the folder's name)")
    joins = parser.add_argument_group("what belongs together")
    joins.add_argument(
        "--key",
        metavar="COLUMN[=KIND]",
        help=f"column of the table that names the image; KIND: {', '.join(KEY_KINDS)} of the image, or a "
        "DICOM tag such as AccessionNumber (default stem, the file's name without suffix)",
    )
    joins.add_argument("--patient", metavar="COLUMN", help="column of the table, dicom:TAG, or stem=REGEX with a group")
    joins.add_argument("--time", metavar="COLUMN", help="time of the image: a column of the table, or 'dicom'")
    joins.add_argument(
        "--record-time", metavar="COLUMN", help="time of the record; one later than its image is refused"
    )
    joins.add_argument("--time-format", metavar="FORMAT", help="of both, as %%d.%%m.%%Y %%H:%%M (default: ISO 8601)")
    values = parser.add_argument_group("clinical columns")
    values.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="SOURCE, SOURCE:name or SOURCE:name{raw=value,raw=value} (default: the whole table)",
    )
    values.add_argument(
        "--dicom-columns",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="the same of DICOM tags, as PatientAge:age PatientSex:sex ViewPosition:view",
    )
    values.add_argument("--decimal-comma", action="store_true", help="numbers of the tables are written 38,1")
    boxes = parser.add_argument_group("a table of boxes")
    boxes.add_argument(
        "--box-columns",
        nargs="+",
        default=[],
        metavar="ROLE=COLUMN",
        help=f"roles: {', '.join(ROLES)} (corners or a corner and a size; default: guessed by name)",
    )
    boxes.add_argument("--box-units", choices=BOX_UNITS, default="pixels", help="of the coordinates (%(default)s)")
    boxes.add_argument("--class-name", default="finding", help="of boxes without a class column (%(default)s)")
    splits = parser.add_argument_group("splits")
    splits.add_argument("--split-column", metavar="COLUMN", help="column of the table with train, val or test")
    add_writing_options(parser, splits)
    return parser


def options_of(args: argparse.Namespace) -> OwnOptions:
    """Build the options of parsed arguments.

    Raises:
        SourceDataError: options that cannot be read or contradict each other.
    """
    pairs = [pair.partition("=") for pair in args.box_columns]
    if any(not equals for _, equals, _ in pairs):
        raise SourceDataError(f"--box-columns {' '.join(args.box_columns)}: write ROLE=COLUMN, for example x1=xmin")
    return OwnOptions(
        key=args.key,
        patient=args.patient,
        columns=parse_columns(" ".join(args.columns)),
        dicom_columns=parse_columns(" ".join(args.dicom_columns)),
        box_columns={role: column for role, _, column in pairs},
        box_units=args.box_units,
        class_name=args.class_name,
        split_column=args.split_column,
        time=args.time,
        record_time=args.record_time,
        time_format=args.time_format,
        decimal_comma=args.decimal_comma,
        **writing_options(args),
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    made = prepare_own(
        args.annotations,
        args.images,
        args.out,
        options_of(args),
        table=args.table,
        schema=args.schema,
        title=args.title,
        on_error=args.on_error,
        num_workers=args.num_workers,
        privacy=privacy_of(args),
    )
    announce(args.out, made)
