"""Describe a prepared folder: annotations, columns' associations with findings, and look-alike images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image
from scipy.stats import contingency, spearmanr
from tqdm import tqdm

from mdf_detectron.child_processes import thread_map
from mdf_detectron.data.annotations import Annotations
from mdf_detectron.data.prepared import read_folder
from mdf_detectron.data.readers import read_radiograph
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.errors import ImageReadError

HASH_SIDE = 16
"""Perceptual hashes have HASH_SIDE² bits; the usual 64 bits cannot distinguish chest radiographs."""

ALIKE_BITS = 20
"""Two images look alike if at most this many of their 256 hash bits differ."""

MOST_PAIRS = 200


@dataclass
class Association:
    """Association of a column with the presence of a class in the train split.

    Attributes:
        finding: a class name, or "any finding".
        measure: "Spearman's ρ" or "Cramér's V".
        value, p_value: None if the column or the finding does not vary.
        images: number of images that have a value.
        missing_with, missing_without: fraction of missing values with and without the finding.
    """

    column: str
    finding: str
    measure: str
    value: float | None
    p_value: float | None
    images: int
    missing_with: float | None
    missing_without: float | None


@dataclass
class AlikePair:
    """Two look-alike images: (split, image entry) of each, and the number of differing bits."""

    first: tuple[str, dict[str, Any]]
    second: tuple[str, dict[str, Any]]
    bits: int

    @property
    def across_splits(self) -> bool:
        return self.first[0] != self.second[0]

    @property
    def across_patients(self) -> bool:
        return self.first[1]["patient_id"] != self.second[1]["patient_id"]


@dataclass
class AlikePairs:
    """Look-alike pairs: the most important ones, and counts of all."""

    pairs: list[AlikePair] = field(default_factory=list)
    total: int = 0
    across_splits: int = 0
    across_patients: int = 0


@dataclass
class Description:
    """The content of a folder's description page.

    Attributes:
        associations: of every column with every class, train split.
        unreadable: one error message per unreadable image.
    """

    root: Path
    splits: dict[str, Annotations]
    schema: ClinicalSchema
    associations: list[Association] = field(default_factory=list)
    alike: AlikePairs = field(default_factory=AlikePairs)
    unreadable: list[str] = field(default_factory=list)


def describe_folder(root: str | Path, num_workers: int = 2) -> Description:
    """Describe a prepared folder; ``num_workers`` threads hash its images."""
    root = Path(root)
    schema, splits = read_folder(root)
    description = Description(root, splits, schema, associate(splits["train"], schema))
    images = [(split, image) for split, one in splits.items() for image in one.images]
    paths = [root / "images" / image["file_name"] for _, image in images]
    hashes = list(tqdm(thread_map(_hash_image, paths, num_workers), "hashing images", len(paths), unit="image"))
    description.unreadable = [h for h in hashes if isinstance(h, str)]
    readable = [(image, h) for image, h in zip(images, hashes, strict=True) if not isinstance(h, str)]
    bits = np.array([h for _, h in readable], dtype=bool).reshape(-1, HASH_SIDE**2)
    description.alike = alike_pairs([image for image, _ in readable], bits)
    return description


def associate(train: Annotations, schema: ClinicalSchema) -> list[Association]:
    """Measure each column's association with each class: Spearman's ρ (numeric) or Cramér's V (categorical)."""
    names = train.class_of
    held: dict[Any, set[str]] = {image["id"]: set() for image in train.images}
    for annotation in train.annotations:
        held[annotation["image_id"]].add(names[annotation["category_id"]])
    presence = {"any finding": np.array([bool(held[i["id"]]) for i in train.images])}
    presence |= {name: np.array([name in held[i["id"]] for i in train.images]) for name in train.class_names}
    found = []
    for column in schema.columns:
        values = [image["clinical"].get(column.name) for image in train.images]
        found += [_association(column, name, values, there) for name, there in presence.items()]
    return found


def _association(column: ClinicalColumn, finding: str, values: list[Any], there: np.ndarray) -> Association:
    known = np.array([value is not None for value in values], dtype=bool)
    shares = [float(1 - known[part].mean()) if part.any() else None for part in (there, ~there)]
    measure = "Spearman's ρ" if column.kind == "numeric" else "Cramér's V"
    value = p_value = None
    chosen, present = [v for v in values if v is not None], there[known]
    if len(set(map(str, chosen))) > 1 and 0 < present.sum() < len(present):
        if column.kind == "numeric":
            value, p_value = map(float, spearmanr(np.array(chosen, dtype=np.float64), present))
        else:
            table = contingency.crosstab(np.array([str(v) for v in chosen]), present).count
            value = float(contingency.association(table, method="cramer"))
            p_value = float(contingency.chi2_contingency(table, correction=False).pvalue)
    return Association(column.name, finding, measure, value, p_value, int(known.sum()), *shares)


def _hash_image(path: Path) -> np.ndarray | str:
    try:
        pixels = read_radiograph(path)[:, :, 0]
    except ImageReadError as error:
        return str(error)
    return imagehash.phash(Image.fromarray(pixels), hash_size=HASH_SIDE).hash.ravel()


def alike_pairs(images: Sequence[tuple[str, dict[str, Any]]], bits: np.ndarray) -> AlikePairs:
    """Find pairs of different files whose hashes differ in at most :data:`ALIKE_BITS` bits.

    Args:
        images: (split, entry) of each.
        bits: (N, B) bool, B a multiple of 64.

    Returns:
        up to :data:`MOST_PAIRS` pairs (across splits first, then across patients, then by differing bits), and counts
        of all pairs.
    """
    words = np.packbits(bits, axis=1).view(np.uint64).T.copy() if len(bits) else np.zeros((1, 0), dtype=np.uint64)
    found, best = AlikePairs(), []
    for first in tqdm(range(words.shape[1] - 1), "comparing hashes", unit="image", disable=len(bits) < 5000):
        for second, differing in _near(words, first):
            pair = AlikePair(images[first], images[second], differing)
            if pair.first[1]["file_name"] != pair.second[1]["file_name"]:
                found.total += 1
                found.across_splits += pair.across_splits
                found.across_patients += pair.across_patients
                best.append(pair)
        if len(best) > 100 * MOST_PAIRS:  # bounds memory: N equal (black) images form N² / 2 pairs
            best = sorted(best, key=_order)[:MOST_PAIRS]
    found.pairs = sorted(best, key=_order)[:MOST_PAIRS]
    return found


def _near(words: np.ndarray, first: int) -> list[tuple[int, int]]:
    """Return (index, differing bits) of the images after ``first`` that look like it; ``words``: (B / 64, N) uint64."""
    differing = np.bitwise_count(words[0, first + 1 :] ^ words[0, first])
    near = np.flatnonzero(differing <= ALIKE_BITS)
    differing = differing[near].astype(np.int64)
    for word in words[1:]:
        differing += np.bitwise_count(word[first + 1 + near] ^ word[first])
        near, differing = near[differing <= ALIKE_BITS], differing[differing <= ALIKE_BITS]
    return list(zip((first + 1 + near).tolist(), differing.tolist(), strict=True))


def _order(pair: AlikePair) -> tuple[bool, bool, int]:
    return not pair.across_splits, not pair.across_patients, pair.bits
