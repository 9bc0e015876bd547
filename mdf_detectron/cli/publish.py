"""Make one file to hand on from a training checkpoint, and a model card next to it.

    mdf publish --weights output/.../model_best.pth --out model.pth
    mdf publish --weights ... --out model.pth --data FOLDER --sensitivity 0.9 --half

Operating thresholds and calibration come from the validation split, results from the test split; both are predicted
here. OUT.md is the model card, OUT_reliability.png the reliability diagram.
"""

import argparse
from pathlib import Path

from mdf_detectron.cli.arguments import checkpoint_file, prepared_folder
from mdf_detectron.fileio import write_figure, write_text


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", metavar="FILE.pth", type=checkpoint_file, required=True)
    parser.add_argument("--out", metavar="model.pth", type=Path, required=True)
    parser.add_argument(
        "--data", metavar="FOLDER", type=prepared_folder, help="prepared folder, if it is elsewhere than registered"
    )
    parser.add_argument("--val", metavar="NAME", help="data set for thresholds (default: DATASETS.VAL, or <train>_val)")
    parser.add_argument("--test", metavar="NAME", help="data set for results (default: DATASETS.TEST, or <train>_test)")
    parser.add_argument("--no-data", action="store_true", help="no thresholds, calibration and results")
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--false-positives", type=float, metavar="N",
                        help="thresholds for at most N false positives an image and class (default: 0.25)")  # fmt: skip
    wanted.add_argument("--sensitivity", type=float, metavar="S", help="thresholds for a sensitivity of at least S")
    parser.add_argument("--hit", choices=("iobb", "iou", "center"), default="iobb",
                        help="what a true positive is (default: %(default)s)")  # fmt: skip
    parser.add_argument("--half", action="store_true", help="store the weights in 16 bits")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.out.suffix != ".pth":
        parser.error("--out needs the ending .pth")
    if args.false_positives is None and args.sensitivity is None:
        args.false_positives = 0.25
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from mdf_detectron.checkpoint.checkpoint import Checkpoint
    from mdf_detectron.data.catalog import register_all, register_prepared_folder
    from mdf_detectron.model_zoo.publishing import measure, splits_of, write_published
    from mdf_detectron.report.charts import reliability_diagram
    from mdf_detectron.report.model_card import DIAGRAM_SUFFIX, model_card

    checkpoint = Checkpoint.open(args.weights)
    register_all()
    if args.data is not None:
        register_prepared_folder(args.data, checkpoint.saved_cfg.DATASETS.TRAIN[0].removesuffix("_train"))
    entries, evaluation = {}, None
    if not args.no_data:
        entries, evaluation = measure(
            checkpoint, *splits_of(checkpoint, args.val, args.test), false_positives=args.false_positives,
            sensitivity=args.sensitivity, criterion=args.hit, resamples=args.resamples,
        )  # fmt: skip
    published = write_published(checkpoint, args.out, half=args.half, **entries)
    stem, contents = args.out.with_suffix(""), published.contents
    if contents["calibration"] is not None:
        write_figure(f"{stem}{DIAGRAM_SUFFIX}", reliability_diagram(contents["calibration"]))
    card = model_card(stem.name, contents, published.digest, evaluation, args.half)
    write_text(args.out.with_suffix(".md"), card)
    sizes = [one.path.stat().st_size / 2**20 for one in (checkpoint, published)]
    print(f"{args.out}: {sizes[1]:.1f} MiB (from {sizes[0]:.1f}), model card: {args.out.with_suffix('.md')}")
