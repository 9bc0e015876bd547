"""RSNA's layout and dirt on a small invented folder, and the steps that all collections share."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))
from dicom_files import radiograph, save
from prepared_reading import read_prepared

from mdf_detectron.cli.prepare import main
from mdf_detectron.data.audit import audit_folder
from mdf_detectron.errors import SourceDataError

ROWS = [
    "a0,,,,,0",
    "a1,256.0,512.0,128.0,256.0,1",
    "a1,640.0,512.0,128.0,256.0,1",
    "a2,,,,,0",
    "a3,100.0,100.0,200.0,300.0,1",
    "a3,100.0,100.0,200.0,300.0,1",
    "a4,,,,,0",
    "a5,,,,,0",
]
AGES = ("62", "148", "062Y", "", "45", "7")


def write_rsna(root: Path, rows=ROWS, patients=(1, 1, 2, 3, 4, 5), ages=AGES, mapping=True) -> Path:
    """Six images of 64×64 that stand for 1024×1024, of five patients."""
    (root / "stage_2_train_images").mkdir(parents=True)
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 16
    for number, age in enumerate(ages):
        tags = {"PatientID": f"a{number}", "PatientSex": "FM"[number % 2], "ViewPosition": ("PA", "AP")[number % 2]}
        image = radiograph(pixels + number, PatientAge=age, **tags)
        save(image, root / "stage_2_train_images" / f"a{number}.dcm")
    (root / "stage_2_train_labels.csv").write_text("\n".join(["patientId,x,y,width,height,Target", *rows]) + "\n")
    if mapping:
        entries = [{"subset_img_id": f"a{i}", "img_id": f"{p:08d}_{i:03d}.png"} for i, p in enumerate(patients)]
        (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(entries))
    return root


def prepare(root: Path, out: Path, *options: str) -> None:
    main(["rsna", "--root", str(root), "--out", str(out), "--num-workers", "1", *options])


def test_boxes_ages_and_patients(tmp_path):
    root, out = write_rsna(tmp_path / "raw"), tmp_path / "rsna"
    prepare(root, out)
    made = read_prepared(out)
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 6, "kept": 6, "dropped": {}}
    assert made.flow["boxes"] == {"stage": "boxes", "in": 4, "kept": 3, "dropped": {"repeats another box": 1}}
    assert made.images["a1"]["boxes"] == [("Lung opacity", [16, 32, 8, 16]), ("Lung opacity", [40, 32, 8, 16])]
    assert made.values("age") == {"a0": 62, "a1": None, "a2": 62, "a3": None, "a4": 45, "a5": 7}
    assert made.values("sex") == {f"a{i}": "FM"[i % 2] for i in range(6)}
    assert made.values("view") == {f"a{i}": ("PA", "AP")[i % 2] for i in range(6)}
    assert made.flow["clinical values"]["dropped"] == {"age: empty": 1, "age: outside 0 to 120 years": 1}
    assert [made.images[f"a{i}"]["patient_id"] for i in range(6)] == ["1", "1", "2", "3", "4", "5"]
    assert made.images["a0"]["split"] == made.images["a1"]["split"]
    assert audit_folder(out).problems == []


def test_without_the_mapping_a_warning(tmp_path, caplog):
    root, out = write_rsna(tmp_path / "raw", mapping=False), tmp_path / "rsna"
    prepare(root, out)
    made = read_prepared(out)
    assert {image["patient_id"] for image in made.images.values()} == {f"a{i}" for i in range(6)}
    assert "Images of one patient may be in several splits" in caplog.text
    assert any("Images of one patient may be in several splits" in note for note in made.report["notes"])


def test_an_image_outside_the_mapping(tmp_path):
    root = write_rsna(tmp_path / "raw", patients=(1, 1, 2, 3, 4))
    with pytest.raises(SourceDataError, match=r"line 9: a5 is not in pneumonia"):
        prepare(root, tmp_path / "rsna")
    prepare(root, tmp_path / "rsna", "--on-error", "skip")
    made = read_prepared(tmp_path / "rsna")
    assert made.flow["annotated images"]["dropped"] == {"image not in the mapping": 1}


@pytest.mark.parametrize("mapping", ["{}", '[{"subset_img_id": "a0"}]', '[{"subset_img_id": "a0", "img_id": "x.png"}]'])
def test_another_mapping(tmp_path, mapping):
    root = write_rsna(tmp_path / "raw")
    (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(mapping)
    with pytest.raises(SourceDataError, match="mapping"):
        prepare(root, tmp_path / "rsna")


def test_all_problems_of_the_table_at_once(tmp_path):
    rows = [*ROWS, "a4,1,2,3,4,0", "a5,1,2,3,x,1", "a2,,,,,1", ",1,2,3,4,1", "a9,,,,,0", "a0,,"]
    root = write_rsna(tmp_path / "raw", rows=rows, patients=(1, 2, 3, 3, 4, 5, 6, 7, 8, 9))
    with pytest.raises(SourceDataError) as error:
        prepare(root, tmp_path / "rsna")
    text = str(error.value)
    for expected in ("line 10: Target is '0' and there is a box", "line 11: box '1', '2', '3', 'x'",
                     "line 12: Target is '1' and there is no box", "line 13: patientId is empty",
                     "line 14: no image file", "line 15: 3 values, the header has 6"):  # fmt: skip
        assert expected in text
    prepare(root, tmp_path / "rsna", "--on-error", "skip")
    made = read_prepared(tmp_path / "rsna")
    assert set(made.images) == {"a0", "a1", "a3"}  # what an unusable row may have said of the others is unknown
    assert made.flow["annotated images"]["in"] == 7
    assert made.flow["annotated images"]["dropped"] == {"unusable row (see the problems)": 3, "image file absent": 1}


def test_an_image_of_another_shape(tmp_path):
    root = write_rsna(tmp_path / "raw")
    save(radiograph(np.zeros((64, 48), np.uint16), PatientAge="62"), root / "stage_2_train_images" / "a1.dcm")
    with pytest.raises(SourceDataError, match=r"boxes are in 1024 × 1024 pixels, the file has 48 × 64"):
        prepare(root, tmp_path / "rsna")
    prepare(root, tmp_path / "rsna", "--on-error", "skip")
    made = read_prepared(tmp_path / "rsna")
    assert "a1" not in made.images and not (tmp_path / "rsna" / "images" / "a1.dcm").exists()
    assert made.flow["boxes"]["dropped"]["its image was dropped"] == 2


def test_an_image_whose_only_box_is_outside_is_not_healthy(tmp_path):
    rows = [*ROWS[:4], "a3,2000,100,200,300,1", *ROWS[6:]]
    root = write_rsna(tmp_path / "raw", rows=rows)
    prepare(root, tmp_path / "rsna")
    made = read_prepared(tmp_path / "rsna")
    assert "a3" not in made.images
    assert made.flow["annotated images"]["dropped"] == {"none of its boxes is usable": 1}


def test_copies_and_the_second_run(tmp_path, capsys):
    root, out = write_rsna(tmp_path / "raw"), tmp_path / "rsna"
    prepare(root, out, "--image-size", "32")
    made = read_prepared(out)
    assert (made.images["a1"]["width"], made.images["a1"]["file_name"]) == (32, "a1.png")
    assert made.images["a1"]["boxes"][0] == ("Lung opacity", [8, 16, 4, 8])
    prepare(root, out, "--image-size", "32")
    assert "already up to date" in capsys.readouterr().out
    prepare(root, out, "--image-size", "32", "--seed", "2")
    assert "written" in capsys.readouterr().out


def test_absent_files(tmp_path):
    with pytest.raises(SourceDataError, match="no folder"):
        prepare(tmp_path / "nowhere", tmp_path / "rsna")
    (tmp_path / "raw").mkdir()
    with pytest.raises(SourceDataError, match=r"no .*stage_2_train_labels.csv; it comes from kaggle.com"):
        prepare(tmp_path / "raw", tmp_path / "rsna")
    (tmp_path / "raw" / "stage_2_train_labels.csv").write_text("patientId,x,y\na0,,\n")
    with pytest.raises(SourceDataError, match="no column 'width', 'height', 'Target'"):
        prepare(tmp_path / "raw", tmp_path / "rsna")
    assert not (tmp_path / "rsna").exists()
