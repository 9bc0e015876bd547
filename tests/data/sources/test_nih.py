"""NIH's two releases of the table, its broken header of boxes, and what counts as healthy."""

from __future__ import annotations

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

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = [
    ("00000001_000.png", "Infiltration|Mass", 1, "58", "M", "PA"),
    ("00000001_001.png", "No Finding", 1, "414", "M", "PA"),
    ("00000002_000.png", "No Finding", 2, "058Y", "F", "AP"),
    ("00000003_000.png", "Hernia", 3, "40", "F", "AP"),
    ("00000004_000.png", "Nodule", 4, "33", "M", "PA"),
    ("00000005_000.png", "No Finding", 5, "20", "F", "PA"),
    ("00000006_000.png", "Effusion", 6, "21", "F", "PA"),
]
BOXES = [
    "00000001_000.png,Infiltrate,256.0,512.0,128.0,256.0",
    "00000004_000.png,Nodule,100.5,200.25,64.0,32.0",
    "00000004_000.png,Nodule,100.5,200.25,64.0,32.0",
]


def write_nih(root: Path, rows=ROWS, boxes=BOXES, v1=False, kaggle=False) -> Path:
    """Images of 64×64 that stand for 1024×1024; of v1, with its trailing commas; or in Kaggle's folders."""
    root.mkdir(parents=True)
    end = "," if v1 else ""
    lines = [
        f"{n},{labels},0,{p},{age},{sex},{view},2500,2048,0.168,0.168{end}" for n, labels, p, age, sex, view in rows
    ]
    name = "Data_Entry_2017.csv" if v1 else "Data_Entry_2017_v2020.csv"
    (root / name).write_text("\n".join([HEADER + end, *lines]) + "\n")
    header, newline = ("Image Index,Finding Label,Bbox [x,y,w,h]", "\r\n") if kaggle else (
        "Image Index,Finding Label,Bbox [x,y,w,h],,,", "\n")  # fmt: skip
    (root / "BBox_List_2017.csv").write_bytes(newline.join([header, *boxes, ""]).encode())
    for number, row in enumerate(rows):
        folder = root / (f"images_{1 + number % 2:03d}/images" if kaggle else "images")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((64, 64), 100 + number, np.uint8)
        Image.fromarray(pixels).convert("RGBA" if number == 1 else "L").save(folder / row[0])
    return root


def prepare(root: Path, out: Path, *options: str) -> None:
    main(["nih", "--root", str(root), "--out", str(out), "--num-workers", "1", *options])


@pytest.mark.parametrize("layout", [{}, {"v1": True}, {"kaggle": True}])
def test_boxed_and_healthy_images_only(tmp_path, layout):
    root, out = write_nih(tmp_path / "raw", **layout), tmp_path / "nih"
    prepare(root, out)
    made = read_prepared(out)
    reason = "a finding, but no box: unlabeled, not healthy"
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 7, "kept": 5, "dropped": {reason: 2}}
    assert made.flow["boxes"] == {"stage": "boxes", "in": 3, "kept": 2, "dropped": {"repeats another box": 1}}
    assert made.images["00000001_000"]["boxes"] == [("Infiltration", [16, 32, 8, 16])]
    assert made.images["00000004_000"]["boxes"] == [("Nodule", [6.28, 12.52, 4, 2])]
    assert made.images["00000002_000"]["boxes"] == []
    assert made.values("age") == {"00000001_000": 58, "00000001_001": None, "00000002_000": 58, "00000004_000": 33,
                                  "00000005_000": 20}  # fmt: skip
    assert made.images["00000001_000"]["split"] == made.images["00000001_001"]["split"]
    assert any(note.startswith("1 images with boxes have further findings") for note in made.report["notes"])
    assert audit_folder(out).problems == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("00000009_000.png,Nodule,1,2,3,4", "line 5: 00000009_000.png is not in the data entry table"),
        (
            "00000002_000.png,Nodule,1,2,3,4",
            "line 5: 00000002_000.png has a box of 'Nodule', its findings are No Finding",
        ),
        ("00000004_000.png,Tumor,1,2,3,4", "line 5: 00000004_000.png has a box of 'Tumor'"),
        ("00000004_000.png,Nodule,1,2,nan,4", "line 5: box '1', '2', 'nan', '4'; expected four numbers"),
    ],
)
def test_boxes_that_do_not_fit(tmp_path, row, expected):
    root = write_nih(tmp_path / "raw", boxes=[*BOXES, row])
    with pytest.raises(SourceDataError) as error:
        prepare(root, tmp_path / "nih")
    assert expected in str(error.value)
    prepare(root, tmp_path / "nih", "--on-error", "skip")
    assert len(read_prepared(tmp_path / "nih").boxes()) == 2


def test_an_image_in_two_rows(tmp_path):
    root = write_nih(tmp_path / "raw", rows=[*ROWS, ROWS[2]])
    with pytest.raises(SourceDataError, match=r"line 9: 00000002_000.png is in .* line 4 too"):
        prepare(root, tmp_path / "nih")
