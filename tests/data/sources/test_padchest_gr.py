"""PadChest-GR's grounded reports and master table on a small invented folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from prepared_reading import read_prepared

from mdf_detectron.cli.prepare import main
from mdf_detectron.data.audit import audit_folder
from mdf_detectron.errors import SourceDataError

HEADER = "StudyID,ImageID,label,split,PatientID,PatientSex_DICOM,PatientAge"
LONG_ID = "216840111366964012768025509942010209105651645_00-009-168.png"


def finding(*boxes, labels=("Nodule",), abnormal=True, extra=()):
    return {"abnormal": abnormal, "boxes": list(boxes), "extra_boxes": list(extra), "labels": list(labels)}


ENTRIES = [
    {"ImageID": LONG_ID, "findings": [finding([0.25, 0.5, 0.5, 0.75], labels=("Nodule", "mass")), {"abnormal": False}]},
    {"ImageID": "i1.png", "findings": [{"abnormal": False}]},
    {"ImageID": "i2.png", "findings": [finding(labels=("Scoliosis",))]},
    {"ImageID": "i3.png", "findings": [finding([0, 0, 0.5, 0.5], extra=[[0.5, 0.5, 1, 1]])]},
    {"ImageID": "i4.png", "findings": []},
]
ROWS = [
    f"s0,{LONG_ID},nodule,train,100,M,71",
    f"s0,{LONG_ID},mass,train,100,M,71",
    "s1,i1.png,,validation,101,F,64",
    "s2,i2.png,,train,102,F,60",
    "s3,i3.png,,test,103.0,F,-3",
    "s4,i4.png,,train,104,F,",
]


def write_padchest(root: Path, entries=ENTRIES, rows=ROWS) -> Path:
    folder = root / "Padchest_GR_files" / "PadChest_GR"
    folder.mkdir(parents=True)
    for number, entry in enumerate(entries):
        pixels = np.arange(40 * 80, dtype=np.uint16).reshape(40, 80) + number
        Image.fromarray(pixels).save(folder / entry["ImageID"])
    (root / "grounded_reports_20240819.json").write_text(json.dumps(entries))
    (root / "master_table.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return root


def prepare(root: Path, out: Path, *options: str) -> None:
    main(["padchest-gr", "--root", str(root), "--out", str(out), "--num-workers", "1", "--min-images", "2", *options])


def test_boxes_splits_and_values(tmp_path):
    root, out = write_padchest(tmp_path / "raw"), tmp_path / "padchest_gr"
    prepare(root, out)
    made = read_prepared(out)
    stem = Path(LONG_ID).stem
    reason = "an abnormal finding without a box: unlabeled, not healthy"
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 5, "kept": 4, "dropped": {reason: 1}}
    assert made.images[stem]["boxes"] == [("nodule", [20, 20, 20, 10]), ("other", [20, 20, 20, 10])]
    assert made.images["i3"]["boxes"] == [("nodule", [0, 0, 40, 20]), ("nodule", [40, 20, 40, 20])]
    assert {n: i["split"] for n, i in made.images.items()} == {stem: "train", "i1": "val", "i3": "test", "i4": "train"}
    assert made.values("age") == {stem: 71, "i1": 64, "i3": None, "i4": None}
    assert made.images["i3"]["patient_id"] == "103"
    assert made.flow["clinical values"]["dropped"] == {"age: empty": 1, "age: outside 0 to 120 years": 1}
    assert audit_folder(out).problems == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("s5,other.png,,train,105,F,60", "ImageID 'i5.png': not in the master table"),
        ("s5,i5.png,,nowhere,105,F,60", "ImageID 'i5.png': no split"),
        ("s5,i5.png,,test,100,F,60", "patient '100' is in train and in test"),
        ("s5,i5.png,,test,,F,60", "no patient"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, row, expected):
    root = write_padchest(tmp_path / "raw", [*ENTRIES, {"ImageID": "i5.png", "findings": []}], [*ROWS, row])
    with pytest.raises(SourceDataError) as error:
        prepare(root, tmp_path / "out")
    assert expected in str(error.value)
    prepare(root, tmp_path / "out", "--on-error", "skip")
    made = read_prepared(tmp_path / "out")
    assert "i5" not in made.images and len(made.images) == 4


@pytest.mark.parametrize("box", [[0.5, 0.1, 0.2, 0.3], [0.1, 0.2], ["x", 0, 1, 1], None])
def test_boxes_that_are_none(tmp_path, box):
    entries = [*ENTRIES, {"ImageID": "i5.png", "findings": [finding(box)]}]
    root = write_padchest(tmp_path / "raw", entries, [*ROWS, "s5,i5.png,,train,105,F,60"])
    with pytest.raises(SourceDataError, match="entry 5: box"):
        prepare(root, tmp_path / "out")


def test_no_list_of_studies(tmp_path):
    root = write_padchest(tmp_path / "raw")
    (root / "grounded_reports_20240819.json").write_text('{"findings": []}')
    with pytest.raises(SourceDataError, match="expected a list of studies"):
        prepare(root, tmp_path / "out")
