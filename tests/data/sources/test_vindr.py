"""VinDr-CXR in both layouts, kept and fused readers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))
from dicom_files import radiograph, save
from prepared_reading import read_prepared

from mdf_detectron.cli.prepare import main
from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.sources.vindr import fuse_boxes
from mdf_detectron.errors import SourceDataError

KAGGLE_ROWS = [
    "v0,No finding,14,R1,,,,", "v0,No finding,14,R2,,,,", "v0,No finding,14,R3,,,,",
    "v1,Cardiomegaly,3,R1,10.0,20.0,50.0,40.0", "v1,Cardiomegaly,3,R2,12.0,20.0,52.0,40.0",
    "v1,ILD,5,R3,10.0,20.0,50.0,40.0",
    "v2,ILD,5,R1,5,5,20,20", "v2,No finding,14,R2,,,,", "v2,No finding,14,R3,,,,",
    "v3,No finding,14,R1,,,,", "v3,No finding,14,R2,,,,", "v3,No finding,14,R3,,,,",
]  # fmt: skip
AGES = ("052Y", "000Y", "", "238Y")


def write_images(folder: Path, names) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.arange(80 * 64, dtype=np.uint16).reshape(80, 64) // 2 + number
        sex = ("M", "F", "O", "M")[number % 4]
        image = radiograph(pixels, PatientAge=AGES[number % 4], PatientSex=sex, PhotometricInterpretation="MONOCHROME1")
        save(image, folder / f"{name}.dicom")


def write_kaggle(root: Path, rows=KAGGLE_ROWS) -> Path:
    write_images(root / "train", ("v0", "v1", "v2", "v3"))
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    (root / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def write_physionet(root: Path) -> Path:
    """Training images p0 to p3, of which p2 has a global finding only, and the test images q0, q1."""
    write_images(root / "train", ("p0", "p1", "p2", "p3"))
    write_images(root / "test", ("q0", "q1"))
    (root / "annotations").mkdir()
    files = {
        "annotations_train.csv": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\np0,R1,No finding,,,,\n"
                                 "p1,R1,Nodule/Mass,10,20,50,40\np1,R2,Nodule/Mass,10,20,50,40\n",
        "image_labels_train.csv": "image_id,rad_id,Nodule/Mass,Pneumonia,No finding\n"
        + "".join(f"p{i},R{r},{int(i == 1)},{int(i == 2)},{int(i in (0, 3))}\n" for i in range(4) for r in range(3)),
        "annotations_test.csv": "image_id,class_name,x_min,y_min,x_max,y_max\nq0,Nodule/Mass,1,2,30,40\n",
        "image_labels_test.csv": "image_id,Nodule/Mass,Other disease,No finding\nq0,1,0,0.0\nq1,0,0,1.0\n",
    }  # fmt: skip
    for name, text in files.items():
        (root / "annotations" / name).write_text(text)
    return root


def prepare(root: Path, out: Path, *options: str) -> None:
    main(["vindr", "--root", str(root), "--out", str(out), "--num-workers", "1", *options])


def test_kaggle_keeps_every_reader(tmp_path):
    root, out = write_kaggle(tmp_path / "raw"), tmp_path / "vindr"
    prepare(root, out)
    made = read_prepared(out)
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 4, "kept": 4, "dropped": {}}
    assert made.flow["boxes"] == {"stage": "boxes", "in": 4, "kept": 4, "dropped": {}}
    assert made.images["v1"]["boxes"] == [
        ("Cardiomegaly", [10, 20, 40, 20]), ("Cardiomegaly", [12, 20, 40, 20]), ("ILD", [10, 20, 40, 20])]  # fmt: skip
    assert made.values("age") == {"v0": 52, "v1": None, "v2": None, "v3": None}
    assert made.values("sex") == {"v0": "M", "v1": "F", "v2": None, "v3": "M"}
    assert any("no file has a patient id" in note for note in made.report["notes"])
    assert audit_folder(out).problems == []


def test_kaggle_fused(tmp_path):
    root, out = write_kaggle(tmp_path / "raw"), tmp_path / "vindr"
    prepare(root, out, "--readers", "fuse")
    made = read_prepared(out)
    assert made.flow["boxes"] == {"stage": "boxes", "in": 4, "kept": 3, "dropped": {"fused with another box": 1}}
    assert sorted(made.images["v1"]["boxes"]) == [("Cardiomegaly", [11, 20, 40, 20]), ("ILD", [10, 20, 40, 20])]
    prepare(root, out)
    assert len(read_prepared(out).boxes()) == 4  # another choice makes the folder new


def test_physionet(tmp_path):
    root, out = write_physionet(tmp_path / "raw"), tmp_path / "vindr"
    prepare(root, out, "--seed", "3")
    made = read_prepared(out)
    reason = "a finding, but no box: unlabeled, not healthy"
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 6, "kept": 5, "dropped": {reason: 1}}
    assert set(made.images) == {"p0", "p1", "p3", "q0", "q1"}
    assert {name for name, image in made.images.items() if image["split"] == "test"} == {"q0", "q1"}
    assert {image["split"] for name, image in made.images.items() if name[0] == "p"} == {"train", "val"}
    assert made.images["q0"]["boxes"] == [("Nodule/Mass", [1, 2, 29, 38])]


def iou(a, b) -> float:
    """Intersection over union of two XYWH boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / (a[2] * a[3] + b[2] * b[3] - inside)


def slow_fusion(boxes, threshold):
    """Every box joins the mean that it overlaps most, from ``threshold`` on, or begins one."""
    groups: list[list[dict]] = []

    def mean(group):
        corners = np.mean([(x, y, x + w, y + h) for x, y, w, h in (b["bbox"] for b in group)], axis=0)
        return [*corners[:2], *(corners[2:] - corners[:2])]

    for box in boxes:
        same = [g for g in groups if g[0]["class"] == box["class"] and iou(mean(g), box["bbox"]) > threshold]
        if same:
            max(same, key=lambda g: iou(mean(g), box["bbox"])).append(box)
        else:
            groups.append([box])
    return sorted((g[0]["class"], *np.round(mean(g), 3)) for g in groups)


def test_fusion_against_a_slow_reference():
    rng = np.random.default_rng(3)
    for _ in range(20):
        boxes = []
        for place in range(4):  # far apart, so that the order in which boxes join cannot matter
            for reader in range(rng.integers(1, 4)):
                x, y = 1000 * place + rng.integers(0, 20), rng.integers(0, 20)
                bbox = [float(v) for v in (x, y, 200 + rng.integers(0, 20), 300)]
                boxes.append({"bbox": bbox, "class": "AB"[place % 2], "reader": f"R{reader}"})
        fused = sorted((b["class"], *np.round(b["bbox"], 3)) for b in fuse_boxes(boxes, 0.5))
        expected = slow_fusion(boxes, 0.5)
        assert [f[0] for f in fused] == [e[0] for e in expected] and len(fused) == 4
        np.testing.assert_allclose([f[1:] for f in fused], [e[1:] for e in expected], atol=0.01)


def test_bad_input(tmp_path):
    root = write_kaggle(tmp_path / "raw", [*KAGGLE_ROWS, "v3,ILD,5,R1,9,9,3,12", "v3,ILD,5,R1,9,9,,12"])
    with pytest.raises(SourceDataError) as error:
        prepare(root, tmp_path / "vindr")
    assert "line 14: box from x 9 to 3" in str(error.value) and "line 15: box '9', '9', '', '12'" in str(error.value)
    prepare(root, tmp_path / "vindr", "--on-error", "skip")
    assert "v3" not in read_prepared(tmp_path / "vindr").images  # a reader saw something there
    with pytest.raises(SourceDataError, match="neither"):
        prepare(tmp_path, tmp_path / "vindr")
