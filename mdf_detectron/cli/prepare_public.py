"""What the command lines that prepare own data and public collections share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mdf_detectron.data.prepared import REPORT_FILE_NAME
from mdf_detectron.data.pseudonyms import Privacy, Pseudonyms
from mdf_detectron.data.sources.kit.collection import Collection, prepare_collection
from mdf_detectron.data.sources.kit.image_files import BIT_DEPTHS
from mdf_detectron.data.sources.kit.output import Account
from mdf_detectron.data.sources.own.options import OwnOptions
from mdf_detectron.errors import DatasetError
from mdf_detectron.fileio import read_json


def add_writing_options(parser: argparse.ArgumentParser, splits: argparse._ArgumentGroup) -> None:
    """Add what decides how a prepared folder is split and written, see :func:`writing_options`.

    Args:
        splits: group of the options of the splits.
    """
    splits.add_argument("--fractions", nargs=3, type=float, default=(0.7, 0.15, 0.15), metavar=("TRAIN", "VAL", "TEST"))
    splits.add_argument("--seed", type=int, default=1, help="of the splits (%(default)s)")
    splits.add_argument("--folds", type=int, default=0, help="also write so many cross-validation folders")
    images = parser.add_argument_group("images")
    images.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="resize once, to this shorter side (default: links)"
    )
    images.add_argument("--bit-depth", type=int, choices=BIT_DEPTHS, default=8, help="of the copies (%(default)s)")
    images.add_argument("--copy-images", action="store_true", help="copy the files instead of linking to them")
    images.add_argument("--num-workers", type=int, default=2, help="processes that read images (%(default)s)")
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="stop with all problems, or leave entries out and count them",
    )

    add_privacy_options(parser)


def add_privacy_options(parser: argparse.ArgumentParser) -> None:
    """Add what the folder may tell about patients, see :func:`privacy_of`."""
    privacy = parser.add_argument_group("privacy")
    privacy.add_argument(
        "--pseudonymize",
        metavar="KEYFILE",
        help="replace patients, ids, times and file names by keyed pseudonyms; the key is in this file, which is made "
        "if it is absent, and must not lie in the folder",
    )
    privacy.add_argument(
        "--show-values",
        action="store_true",
        help="put messages about entries that are left out and examples of values into the report",
    )


def privacy_of(args: argparse.Namespace) -> Privacy:
    """Return the choices of :func:`add_privacy_options`."""
    pseudonyms = Pseudonyms.from_file(args.pseudonymize, args.out) if args.pseudonymize else None
    return Privacy(pseudonyms, args.show_values)


def writing_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :func:`add_writing_options` that belong to ``OwnOptions``."""
    names = ("seed", "folds", "image_size", "bit_depth", "copy_images")
    return {"fractions": tuple(args.fractions), **{name: getattr(args, name) for name in names}}


def announce(out: str | Path, made: bool) -> None:
    """Say what a prepared folder holds, what a reader of its numbers must know, and what to do next."""
    report = read_json(Path(out) / REPORT_FILE_NAME, DatasetError)
    print(f"{out}: {'written' if made else 'already up to date'} (see report.md there)")
    for split, summary in report["splits"].items():
        boxes = sum(summary["boxes"].values())
        print(f"  {split}: {summary['images']} images of {summary['patients']} patients, {boxes} boxes")
    for stage in report["flow"]:
        if stage["dropped"]:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in stage["dropped"].items())
            print(f"  {stage['stage']}: {stage['kept']} of {stage['in']} kept; {reasons}")
    for note in report["notes"]:
        print("  " + note.replace("**", ""))
    print(f"Next: mdf audit {out}; mdf describe {out}; mdf init {out}")


def public_parser(description: str | None, root_help: str) -> argparse.ArgumentParser:
    """Build a parser with the options that every collection has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, metavar="DIR", help=root_help)
    parser.add_argument("--out", required=True, metavar="DIR", help="the prepared folder to write")
    add_writing_options(parser, parser.add_argument_group("splits, by patient"))
    return parser


def run_preparation(args: argparse.Namespace, read: Callable[[Account, Path], Collection]) -> None:
    """Prepare the collection that ``read`` reads below ``--root``, and say where it lies."""
    options = OwnOptions(**writing_options(args))
    made = prepare_collection(
        lambda job: read(job, Path(args.root)),
        args.out,
        options,
        on_error=args.on_error,
        num_workers=args.num_workers,
        privacy=privacy_of(args),
    )
    announce(args.out, made)


def prepare(description: str | None, root_help: str, read: Callable[[Account, Path], Collection],
            argv: Sequence[str] | None) -> None:  # fmt: skip
    """Run the command line of a collection that has no options of its own."""
    run_preparation(public_parser(description, root_help).parse_args(argv), read)
