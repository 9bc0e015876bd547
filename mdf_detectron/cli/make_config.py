"""Propose a config for a prepared folder: classes, columns, image size, anchors, flip, masks, schedule from the data.

mdf init datasets/mine --out configs/mine

Writes with_record.yaml, whose comments give the reasons, and image_only.yaml, the baseline to compare it with; for a
folder without clinical records image_only.yaml alone.
"""

import argparse
from pathlib import Path

from mdf_detectron.cli.arguments import existing_file, prepared_folder
from mdf_detectron.errors import ConfigError
from mdf_detectron.fileio import write_text

BASELINE = """# The baseline: the same model without the clinical record.
_BASE_: with_record.yaml
MODEL:
  CLINICAL:
    FUSION_LOGITS: False
    FUSION_3D: False
OUTPUT_DIR: output/{name}/image_only
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=prepared_folder, help="a prepared folder")
    parser.add_argument("--out", metavar="DIR", help="folder of the config files (default: configs/NAME)")
    parser.add_argument(
        "--image-size", type=int, help="side of the model's square input (default: chosen from images and boxes)"
    )
    parser.add_argument("--no-flip", action="store_true", help="no mirrored or turned images in training")
    parser.add_argument("--trunk", default="", metavar="NAME", help="timm model (default: mobilenetv3_small_100)")
    parser.add_argument("--weights", type=existing_file, metavar="FILE",
                        help="its pretrained weights (mdf weights), which also say the pixel statistics")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace existing config files")
    args = parser.parse_args(argv)
    from mdf_detectron.evaluation.coco import GroundTruth
    from mdf_detectron.evaluation.power import answer_in_words, patients_with_boxes, smallest_difference
    from mdf_detectron.model_zoo.config_proposal import config_text, propose_config, read_folder

    facts = read_folder(args.folder)
    out = Path(args.out or Path("configs") / facts.name)
    there = [name for name in ("with_record.yaml", "image_only.yaml") if (out / name).exists()]
    if there and not args.force:
        raise ConfigError(f"{out / there[0]} exists; --force replaces it, or name another --out")
    given = {"trunk": args.trunk, "weights": args.weights or ""}
    choices = propose_config(facts, image_size=args.image_size, flip=not args.no_flip, **given)
    main_config = "with_record" if choices.values["MODEL.CLINICAL.FUSION_LOGITS"] else "image_only"
    title = "Model with the record" if main_config == "with_record" else "Image-only model (no clinical column to read)"
    title = f"{title} for the prepared folder {facts.name}, proposed from its data."
    write_text(out / f"{main_config}.yaml", config_text(choices, f"output/{facts.name}/{main_config}", title))
    written = f"{main_config}.yaml"
    if main_config == "with_record":
        write_text(out / "image_only.yaml", BASELINE.format(name=facts.name))
        written += " and image_only.yaml"
    parent = Path(args.folder).resolve().parent
    prefix = "" if parent == Path("datasets").resolve() else f"DETECTRON2_DATASETS={parent} "
    print(f"{out}: {written} written. Read the comments, then train:")
    print(f"  {prefix}mdf train --config-file {out / main_config}.yaml")
    if main_config == "with_record":
        if args.weights:
            late = (
                f"mdf late-fusion {args.folder} --weights output/{facts.name}/image_only/model_best.pth --out late.pth"
            )
            print(f"With few images late fusion was as good (docs/models.md): train image_only.yaml, then {late}")
        folds = dict(enumerate(sorted(Path(args.folder).glob("fold_*/annotations/test.json"))))
        truths = {fold: GroundTruth.load(file) for fold, file in (folds or {0: facts.splits["test"]}).items()}
        patients = 0 if folds else patients_with_boxes(facts.splits.values())
        print(answer_in_words(truths, smallest_difference(truths, seeds=3), ", three seeds", patients))
