"""The numbers of a folder's description, against slow references, and images that look alike."""

from __future__ import annotations

import itertools
import json
import math
import shutil

import cv2
import numpy as np
import pytest

from mdf_detectron.data.annotations import Annotations
from mdf_detectron.data.description import ALIKE_BITS, MOST_PAIRS, alike_pairs, associate, describe_folder
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.errors import DatasetError
from mdf_detectron.evaluation.coco import GroundTruth
from mdf_detectron.evaluation.record_alone import record_alone
from mdf_detectron.report.dataset import write_dataset_page

SCHEMA = ClinicalSchema(
    (
        ClinicalColumn("age", "numeric", "years", 0, 120),
        ClinicalColumn("sex", "categorical", vocabulary=("F", "M")),
        ClinicalColumn("same", "numeric"),
    )
)


def ranks(values):
    """Rank of each value, ties shared, one after the other."""
    return [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]


def pearson(a, b):
    a, b = [x - sum(a) / len(a) for x in a], [x - sum(b) / len(b) for x in b]
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_associations_agree_with_a_slow_reference():
    rng = np.random.default_rng(2)
    images, annotations = [], []
    for number in range(60):
        age = None if number % 7 == 0 else int(rng.integers(20, 40))
        images.append({"id": number, "clinical": {"age": age, "sex": "FM"[rng.integers(2)], "same": 1}})
        if rng.random() < (0.7 if (age or 30) > 30 else 0.3):
            annotations.append({"image_id": number, "category_id": 1, "bbox": [0, 0, 1, 1]})
    train = Annotations(images, annotations, [{"id": 1, "name": "mass"}])
    found = {(a.column, a.finding): a for a in associate(train, SCHEMA)}
    held = {a["image_id"] for a in annotations}
    known = [i for i in images if i["clinical"]["age"] is not None]
    rho = pearson(ranks([i["clinical"]["age"] for i in known]), ranks([i["id"] in held for i in known]))
    assert found["age", "mass"].value == pytest.approx(rho) and found["age", "mass"].images == len(known)
    missing = [i["clinical"]["age"] is None for i in images if i["id"] in held]
    assert found["age", "mass"].missing_with == pytest.approx(sum(missing) / len(missing))
    phi = abs(pearson([i["clinical"]["sex"] == "F" for i in images], [i["id"] in held for i in images]))
    assert found["sex", "mass"].value == pytest.approx(phi)  # Cramér's V of a 2 × 2 table
    assert found["same", "mass"].value is None and found["sex", "any finding"].value == pytest.approx(phi)


def test_alike_pairs_agree_with_a_loop_over_all_pairs():
    rng = np.random.default_rng(0)
    bits = rng.random((30, 256)) < 0.5
    bits[20] = bits[3]
    bits[21], bits[21, :5] = bits[4], ~bits[4, :5]
    images = [("train" if n < 20 else "test", {"file_name": str(n), "patient_id": str(n % 20)}) for n in range(30)]
    slow = {(a, b) for a, b in itertools.combinations(range(30), 2) if sum(bits[a] != bits[b]) <= ALIKE_BITS}
    found = alike_pairs(images, bits)
    assert (
        {(int(p.first[1]["file_name"]), int(p.second[1]["file_name"])) for p in found.pairs}
        == slow
        == {(3, 20), (4, 21)}
    )
    assert [p.bits for p in found.pairs] == [0, 5] and found.total == found.across_splits == 2
    assert alike_pairs([], np.zeros((0, 256), dtype=bool)).pairs == []


def test_a_resized_and_brightened_copy_in_another_split_is_found_and_shown(tiny_folder, annotations_of, tmp_path):
    root = tmp_path / "own_cxr"
    shutil.copytree(tiny_folder, root, symlinks=False)
    data = annotations_of(root, "test")
    photo = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 255, (80, 96)).astype(np.uint8), (0, 0), 6)
    photo = cv2.normalize(photo, None, 20, 200, cv2.NORM_MINMAX)
    cv2.imwrite(str(root / "images" / "train_1.png"), photo)
    copy = cv2.resize(np.clip(photo * 1.1 + 10, 0, 255).astype(np.uint8), (192, 160))
    entry = next(i for i in data["images"] if i["file_name"] == "test_1.png")
    entry.update(width=192, height=160)
    cv2.imwrite(str(root / "images" / "test_1.png"), copy)
    (root / "annotations" / "test.json").write_text(json.dumps(data))
    description = describe_folder(root, num_workers=1)
    names = [{p.first[1]["file_name"], p.second[1]["file_name"]} for p in description.alike.pairs if p.across_splits]
    assert {"train_1.png", "test_1.png"} in names
    alone = record_alone(GroundTruth.load(description.splits["train"]), description.schema, 20)
    page = write_dataset_page(tmp_path / "page.html", description, alone).read_text()
    for text in (
        "What the record alone tells",
        "which values are missing",
        "pairs of images that look alike are in different splits",
        "test_1.png",
        "temperature",
        "192 × 160",
    ):
        assert text in page
    assert page.count("data:image/png;base64,") == 6


def test_no_folder_is_one_line(tmp_path):
    with pytest.raises(DatasetError, match="has no folder 'annotations'"):
        describe_folder(tmp_path)


def test_very_many_pairs_are_counted_and_the_first_kept():
    count = 260  # black images, say
    images = [("train" if n < count - 1 else "test", {"file_name": str(n), "patient_id": "p"}) for n in range(count)]
    found = alike_pairs(images, np.zeros((count, 256), dtype=bool))
    assert found.total == count * (count - 1) // 2 and found.across_splits == count - 1 and found.across_patients == 0
    assert len(found.pairs) == MOST_PAIRS and all(pair.across_splits for pair in found.pairs)
