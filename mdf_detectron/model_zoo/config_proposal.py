"""Propose a config for a prepared folder, with a comment on the reason for each choice."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.cluster import KMeans

from mdf_detectron.config import flat_config
from mdf_detectron.config_file import get_mdf_cfg, read_config_file
from mdf_detectron.data import prepared
from mdf_detectron.data.annotations import Annotations
from mdf_detectron.data.readers import read_radiograph
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.errors import ConfigError, DatasetError
from mdf_detectron.fileio import CONFIGS

BASES = ("Base-MDF-Net.yaml", "Recipe-AdamW.yaml", "Recipe-Record.yaml")
RECORD_REASONS = {"MODEL.CLINICAL.DROPOUT_VALUE": "Keeps the model from memorizing the training patients' records."}
"""Reasons for keys that the recipes set."""
IMAGE_SIZES = (64, 128, 192, 256, 384, 512)
MOST_ANCHOR_SIZES, PIXEL_SAMPLE, BATCH = 4, 100, 4
COLOR = 8
"""Least mean difference of an image's channels, 0–255, that makes it a color image."""
SMALL_BOX = 16
"""Wanted side of a small box (10th percentile) in the model's input, in pixels."""
EPOCHS, PRETRAINED_EPOCHS, LEAST_ITERATIONS, MOST_ITERATIONS = 20, 8, 600, 20_000
FEW_IMAGES = 5_000
"""Training images below which a pretrained trunk keeps its first stages (docs/experiments/2026-11-real-records.md)."""

_SIDED = re.compile(r"(^|[^a-z])(left|right|lt|rt|l|r|sinister|dexter)([^a-z]|$)", re.IGNORECASE)


@dataclass
class FolderFacts:
    """What a proposed config depends on.

    Attributes:
        name: of the folder; its data sets are registered as "<name>_<split>".
        splits: annotations by split.
        pixel_mean, pixel_std: of a sample of the training split, 0–255; of gray, or of R, G and B if it is color.
    """

    name: str
    splits: dict[str, Annotations]
    schema: ClinicalSchema
    pixel_mean: list[float]
    pixel_std: list[float]


@dataclass
class Choices:
    """Config keys with their values and the reasons for them."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=lambda: dict(RECORD_REASONS))

    def choose(self, key: str, value: Any, reason: str = "") -> None:
        self.values[key] = value
        if reason:
            self.reasons[key] = reason


Choose = Callable[..., None]


def read_folder(root: str | Path) -> FolderFacts:
    """Read a prepared folder; raises DatasetError if its training split has no boxes."""
    root = Path(root)
    schema, splits = prepared.read_folder(root)
    train = splits["train"]
    if not train.annotations:
        raise DatasetError(f"{root}: no box in the training split ({len(train.images)} images); nothing can be learned")
    step = max(1, len(train.images) // PIXEL_SAMPLE)
    mean, std = pixel_statistics([root / "images" / image["file_name"] for image in train.images[::step]])
    return FolderFacts(root.resolve().name, splits, schema, mean, std)


def pixel_statistics(paths: Sequence[Path]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of images, 0–255: of R, G and B if most are color, else of gray.

    A color image is one whose largest and smallest channel differ by :data:`COLOR` on average.
    """
    colored, count, sums = 0, 0, np.zeros((2, 4))
    for path in paths:
        pixels = read_radiograph(path, "RGB")[::4, ::4].reshape(-1, 3).astype(np.float64)
        colored += np.ptp(pixels, axis=1).mean() >= COLOR
        values = np.column_stack([pixels, pixels @ (0.299, 0.587, 0.114)])
        count, sums = count + len(values), sums + (values.sum(axis=0), (values**2).sum(axis=0))
    mean, square = sums[:, :3] / count if 2 * colored > len(paths) else sums[:, 3:] / count
    return mean.tolist(), np.sqrt(np.maximum(square - mean**2, 1)).tolist()


def propose_config(
    facts: FolderFacts, *, image_size: int | None = None, flip: bool = True, trunk: str = "", weights: str = ""
) -> Choices:
    """Choose the keys that depend on the data; the package's base config and recipes set the rest.

    Args:
        image_size: side of the model's square input; None chooses it.
        flip: allow flips and turns, which are off in any case if class names say left or right.
        trunk, weights: name of a timm model, and a file of its pretrained weights.
    """
    choices, train = Choices(), facts.splits["train"]
    choose = choices.choose
    _datasets(choose, facts)
    _columns(choose, facts)
    boxes = _relative_boxes(train)
    side = _image_size(choose, train, boxes, image_size)
    _anchors(choose, boxes * side, side)
    names = train.class_names
    choose("MODEL.ROI_HEADS.NUM_CLASSES", len(names), f"The classes: {', '.join(names)}.")
    color = len(facts.pixel_mean) == 3
    _masks(choose, train)
    _flips(choose, names, flip, color)
    _schedule(choose, facts, PRETRAINED_EPOCHS if weights else EPOCHS)
    if color:
        choose("INPUT.FORMAT", "RGB", "Most training images are color.")
    _pixels(choose, facts, trunk, weights)
    per_image = np.bincount(np.unique([a["image_id"] for a in train.annotations], return_inverse=True)[1])
    most = int(per_image.max())
    choose("TEST.DETECTIONS_PER_IMAGE", max(10, 2 * most), f"An image has up to {most} boxes.")
    _proposals(choose, most)
    choose("MODEL.LOSS_WEIGHTING.NAME", "none", "The plain sum of the losses; the paper uses homoscedastic.")
    return choices


def _datasets(choose: Choose, facts: FolderFacts) -> None:
    counts = {name: (len(s.images), len(s.annotations)) for name, s in facts.splits.items()}
    text = "; ".join(f"{name} {images} images, {boxes} boxes" for name, (images, boxes) in counts.items())
    choose("DATASETS.TRAIN", [f"{facts.name}_train"], f"{text}.")
    if counts["val"][1]:
        choose("DATASETS.VAL", [f"{facts.name}_val"], "Selects the best checkpoint; test is scored once.")
    else:
        choose("DATASETS.VAL", [], "The validation split has no box: no checkpoint can be selected.")
    reason = "" if counts["test"][1] else "No box in it: metrics will be undefined. Prepare with another --seed."
    choose("DATASETS.TEST", [f"{facts.name}_test"], reason)


def _columns(choose: Choose, facts: FolderFacts) -> None:
    records = [image.get("clinical") or {} for image in facts.splits["train"].images]
    used: dict[str, list[str]] = {"numeric": [], "categorical": []}
    missing, left_out = [], []
    for column in facts.schema.columns:
        values = [r[column.name] for r in records if r.get(column.name) is not None]
        if len(set(values)) < 2:
            left_out.append(column.name)
            continue
        used[column.kind].append(column.name)
        missing.append(f"{column.name} {100 * (1 - len(values) / len(records)):.0f} %")
    reason = f"Columns of the schema; missing in the training split: {', '.join(missing) or 'none'}."
    if left_out:
        reason += f" Left out (one value or none): {', '.join(left_out)}."
    choose("MODEL.CLINICAL.NUMERIC", used["numeric"], reason)
    choose("MODEL.CLINICAL.CATEGORICAL", used["categorical"], "Their vocabularies come from the schema.")
    fuses = bool(used["numeric"] or used["categorical"])
    reason = "The record is added to the class logits: the best of the fusions measured (docs/models.md)."
    choose("MODEL.CLINICAL.FUSION_LOGITS", fuses, reason if fuses else "There is no record to fuse.")
    choose("MODEL.CLINICAL.FUSION_3D", fuses, "Makes the map of image and record that logit fusion's head reads.")
    choose("MODEL.CLINICAL.EMBEDDING_DIM", 55, "With 4, a category was too quiet for what depends on it and the image.")


def _relative_boxes(train: Annotations) -> np.ndarray:
    """Return width and height relative to the image, (N, 2); the input is a square."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in train.images}
    return np.array([np.divide(a["bbox"][2:], sizes[a["image_id"]]) for a in train.annotations])


def _image_size(choose: Choose, train: Annotations, boxes: np.ndarray, wanted: int | None) -> int:
    small = float(np.percentile(np.sqrt(boxes.prod(axis=1)), 10))
    shorter = float(np.median([min(image["width"], image["height"]) for image in train.images]))
    if wanted is not None:
        side, reason = wanted, "As requested."
    else:
        needed = SMALL_BOX / max(small, 1e-6)
        there = max([size for size in IMAGE_SIZES if size <= shorter], default=IMAGE_SIZES[0])
        side = min(next((size for size in IMAGE_SIZES if size >= max(needed, 128)), IMAGE_SIZES[-1]), there)
        reason = f"The images' shorter side is {shorter:.0f} (median)."
    choose("INPUT.IMAGE_SIZE", side, f"{reason} A small box (10th percentile): {small * side:.0f} pixels.")
    return side


def _anchors(choose: Choose, boxes: np.ndarray, side: int) -> None:
    lengths = np.log(np.sqrt(boxes.prod(axis=1)))[:, None]
    count = min(MOST_ANCHOR_SIZES, len(np.unique(lengths.round(2))))
    centers = np.exp(KMeans(count, n_init=5, random_state=0).fit(lengths).cluster_centers_.ravel())
    if count < 3:  # boxes of nearly one size: allow for others
        centers = np.outer(centers, (0.7, 1.0, 1.4)).ravel()
    sizes = sorted({max(8, int(4 * round(c / 4))) for c in centers})
    ratios = sorted({round(float(r), 1) for r in np.percentile(boxes[:, 1] / boxes[:, 0], (10, 50, 90))})
    ratios = [max(r, 0.1) for r in ratios]
    choose("MODEL.ANCHOR_GENERATOR.SIZES", [sizes], f"k-means of {len(boxes)} boxes in the {side} × {side} input.")
    reason = "10th, 50th and 90th percentile of height over width, in the square input."
    choose("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [ratios], reason)
    stride = 32 if side >= 384 and sizes[0] >= 64 else 16
    feature = f"p{int(math.log2(stride))}"
    choose("MODEL.TIMM.STRIDE", stride, f"One feature map of {side // stride} × {side // stride}.")
    choose("MODEL.RPN.IN_FEATURES", [feature])
    choose("MODEL.ROI_HEADS.IN_FEATURES", [feature])


def _masks(choose: Choose, train: Annotations) -> None:
    masks = sum("segmentation" in a for a in train.annotations)
    complete = masks == len(train.annotations)
    choose("MODEL.MASK_ON", complete, "Every box has a mask." if complete else
                   f"Only {masks} of {len(train.annotations)} boxes have a mask.")  # fmt: skip
    if complete and any(isinstance(a["segmentation"], dict) for a in train.annotations):
        choose("INPUT.MASK_FORMAT", "bitmask", "Masks are run-length encoded.")


def _flips(choose: Choose, names: Sequence[str], flip: bool, color: bool) -> None:
    if sided := [name for name in names if _SIDED.search(name)]:
        choose("INPUT.RANDOM_FLIP", "none", f"A mirrored image would have the wrong class of {', '.join(sided)}.")
    elif flip and color:
        text = "Most color images (skin, microscopy) have no up and down. If yours have: horizontal, and no turns."
        choose("INPUT.RANDOM_FLIP", "both", text)
        choose("INPUT.RANDOM_QUARTER_TURNS", True)
    elif flip:
        choose("INPUT.RANDOM_FLIP", "horizontal", "No class name says left or right; --no-flip switches it off.")
    else:
        choose("INPUT.RANDOM_FLIP", "none", "As requested.")


def _proposals(choose: Choose, most: int) -> None:
    """Keep ten proposals for each box that an image can have, 100 to 1,000: fewer are faster and as good."""
    kept = min(max(100, 10 * most), 1000)
    for when in ("TRAIN", "TEST"):
        choose(f"MODEL.RPN.PRE_NMS_TOPK_{when}", min(3 * kept, 1000))
        choose(f"MODEL.RPN.POST_NMS_TOPK_{when}", kept, f"An image has up to {most} boxes.")


def _pixels(choose: Choose, facts: FolderFacts, trunk: str, weights: str) -> None:
    mean, std, reason = facts.pixel_mean, facts.pixel_std, f"Of up to {PIXEL_SAMPLE} training images."
    if trunk:
        choose("MODEL.TIMM.NAME", trunk, "As requested.")
    if weights:
        import timm

        name = trunk or get_mdf_cfg().MODEL.TIMM.NAME
        if (known := timm.get_pretrained_cfg(name)) is None:
            raise ConfigError(f"--trunk {name}: timm {timm.__version__} has no pretrained model of this name")
        expected = 255 * np.array([known.mean, known.std])
        mean, std = (expected if len(mean) == 3 else expected.mean(axis=1, keepdims=True)).tolist()
        reason = f"Those with which timm's {name} was trained."
        choose("MODEL.TIMM.WEIGHTS_FILE", weights, "Pretrained; a checkpoint does not need the file.")
        if len(facts.splits["train"].images) < FEW_IMAGES:
            choose("MODEL.BACKBONE.FREEZE_AT", 3, "Few images would make its first stages forget.")
    choose("MODEL.PIXEL_MEAN", [round(value, 1) for value in mean], f"Mean and standard deviation: {reason}")
    choose("MODEL.PIXEL_STD", [round(value, 1) for value in std])


def _schedule(choose: Choose, facts: FolderFacts, epochs: int) -> None:
    images = len(facts.splits["train"].images)
    batch = min(BATCH, images)
    epoch = max(1, images // batch)
    iterations = min(max(epochs * epoch, LEAST_ITERATIONS), MOST_ITERATIONS)
    choose("SOLVER.IMS_PER_BATCH", batch)
    choose("SOLVER.MAX_ITER", iterations, f"{iterations / epoch:.0f} epochs of {images} images in batches of {batch}.")
    choose("SOLVER.WARMUP_ITERS", min(100, iterations // 10))
    period = max(epoch, iterations // 20)
    choose("SOLVER.CHECKPOINT_PERIOD", period)
    if facts.splits["val"].annotations:
        choose("TEST.EVAL_PERIOD", period, f"Validated {iterations // period} times.")
        choose("VALIDATION.PATIENCE", 5, "Stops after five validations without an improvement.")


def config_text(choices: Choices, output_dir: str, title: str) -> str:
    """Return the text of a self-contained config file: the keys of the bases and the choices with their reasons."""
    keys: dict[str, Any] = {}
    for base in BASES:
        keys |= flat_config(read_config_file(CONFIGS / base))
    keys |= choices.values | {"OUTPUT_DIR": output_dir}
    get_mdf_cfg().merge_from_list([part for pair in keys.items() for part in pair])  # raises if one does not fit
    lines = [f"# {title}", "# Comments give the reason for each choice; the package's base config sets the rest."]
    within: list[str] = []
    for key, value in sorted(keys.items()):
        *parents, last = key.split(".")
        for depth, parent in enumerate(parents):
            if within[: depth + 1] != parents[: depth + 1]:
                lines.append(f"{'  ' * depth}{parent}:")
                within = parents[: depth + 1]
        within, indent = parents, "  " * len(parents)
        if key in choices.reasons:
            lines.append(f"{indent}# {choices.reasons[key]}")
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
        lines.append(f"{indent}{last}: {text.removesuffix('...' + chr(10)).strip()}")
    return "\n".join(lines) + "\n"
