"""Prepare a data set: your own, the embedded synthetic one or a public collection."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdf_detectron.cli.arguments import check_name, listing
from mdf_detectron.data.sources import COLLECTIONS
from mdf_detectron.errors import DatasetError
from mdf_detectron.fileio import read_json

if TYPE_CHECKING:
    from mdf_detectron.data.sources.kit.collection import Collection

WRITING = ("fractions", "seed", "folds", "image_size", "bit_depth", "copy_images", "splits",
           "allow_shared_patients")  # fmt: skip
"""Arguments, shared by all collections, that control splits and image files."""


def main(argv: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    name = words[0]
    check_name(name, COLLECTIONS, "mdf prepare has no collection")
    collection = COLLECTIONS[name]
    args = vars(build_parser(collection).parse_args(words[1:]))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = args.pop("out")
    announce(out, run(collection, out, args))


def usage() -> str:
    """Return the text of ``mdf prepare --help``."""
    lines = listing({name: COLLECTIONS.help(name) for name in COLLECTIONS})
    head = ["usage: mdf prepare NAME --out FOLDER ...", "", __doc__, ""]
    return "\n".join([*head, *lines, "", "mdf prepare NAME --help explains one."])


def build_parser(collection: Collection) -> argparse.ArgumentParser:
    """Build the parser of a collection from its own arguments and the shared ones."""
    parser = argparse.ArgumentParser(
        f"mdf prepare {collection.name}",
        description=collection.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    collection.options(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the prepared folder to write")
    if collection.write:
        return parser
    # fmt: off
    splits = parser.add_argument_group("splits, by patient")
    splits.add_argument("--fractions", nargs=3, type=float, default=(0.7, 0.15, 0.15), metavar=("TRAIN", "VAL", "TEST"))
    splits.add_argument("--seed", type=int, default=1, help="of the splits (%(default)s)")
    splits.add_argument("--folds", type=int, default=0, help="also write this many cross-validation folders")
    splits.add_argument("--splits", metavar="FILE", help="table: reading_id, image_id or file_name, and split")
    splits.add_argument("--allow-shared-patients", action="store_true", help="in --splits; results are too good")
    images = parser.add_argument_group("images")
    images.add_argument("--image-size", type=int, metavar="PIXELS",
                        help="resize once, to this shorter side (default: links)")
    images.add_argument("--bit-depth", type=int, choices=(8, 16), default=8, help="of the copies (%(default)s)")
    images.add_argument("--copy-images", action="store_true", help="copy the files instead of linking to them")
    images.add_argument("--num-workers", type=int, default=2, help="processes that read images (%(default)s)")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop",
                        help="stop with all problems, or leave entries out and count them")
    privacy = parser.add_argument_group("privacy")
    privacy.add_argument("--pseudonymize", metavar="KEYFILE",
                         help="replace patients, ids, times and file names by keyed pseudonyms; the key is in this "
                         "file, which is made if it is absent, and must not lie in the folder")
    privacy.add_argument("--show-values", action="store_true",
                         help="put messages about entries that are left out and examples of values into the report")
    # fmt: on
    parser.set_defaults(**collection.defaults)
    return parser


def run(collection: Collection, out: str, args: Mapping[str, Any]) -> bool:
    """Prepare a collection from parsed arguments; return False if the folder was already up to date."""
    from mdf_detectron.data.pseudonyms import Privacy, Pseudonyms
    from mdf_detectron.data.sources.kit.collection import WriteOptions
    from mdf_detectron.data.sources.kit.preparation import prepare

    given = dict(args)
    if collection.write:
        return prepare(collection, out, **given)
    options = WriteOptions(**{name: given.pop(name) for name in WRITING})
    key_file, show = given.pop("pseudonymize"), given.pop("show_values")
    privacy = Privacy(Pseudonyms.from_file(key_file, out) if key_file else None, show)
    return prepare(collection, out, options, privacy=privacy, **given)


def announce(out: str, made: bool) -> None:
    """Print the contents of a prepared folder, the notes of its report, and the next commands."""
    report = read_json(Path(out) / "report.json", DatasetError)
    print(f"{out}: {'written' if made else 'already up to date'} (see report.md there)")
    for split, summary in report["splits"].items():
        boxes = ", ".join(f"{name} {count}" for name, count in summary["boxes"].items())
        total = f"{sum(summary['boxes'].values())} boxes ({boxes})"
        print(f"  {split}: {summary['images']} images of {summary['patients']} patients, {total}")
    counts = Counter()
    for summary in report["splits"].values():
        counts.update(summary["boxes"])
    print(f"  classes: {', '.join(f'{name} {count} boxes' for name, count in counts.items())}")
    for stage in report["flow"]:
        if stage["dropped"]:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in stage["dropped"].items())
            print(f"  {stage['stage']}: {stage['kept']} of {stage['in']} kept; {reasons}")
    for note in report["notes"]:
        print("  " + note.replace("**", ""))
    print(f"Next: mdf audit {out}; mdf describe {out}; mdf init {out}")
