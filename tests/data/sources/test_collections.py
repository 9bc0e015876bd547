"""The public collections on small invented trees: what is kept, what is dropped and why, what bad input says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdf_detectron.cli.prepare import build_parser, main
from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.sources import COLLECTIONS, Entry
from mdf_detectron.data.sources.vindr import fuse_boxes
from mdf_detectron.errors import SourceDataError, UserError
from tests.data.sources.mimic.golden import CASES, NOTHING, Tree, dicom, subject
from tests.data.sources.public_trees import (
    LONG_ID,
    MAPPING,
    NIH_ROWS,
    RSNA_ROWS,
    WRITERS,
    finding,
    prepare,
    radiograph,
    save,
    write_covid,
    write_ms_cxr,
    write_nih,
    write_padchest,
    write_rsna,
    write_vindr,
    write_vindr_physionet,
)

UNLABELED = "a finding, but no box: unlabeled, not healthy"

# --- the list

MADE_UP = '''
"""Made-up radiographs: shadows, with the weight of the patient."""

from pathlib import Path

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.sources.kit.boxes import parse_box
from mdf_detectron.data.sources.kit.collection import Collection, Content, root_option
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import read_table

SCHEMA = ClinicalSchema((ClinicalColumn("weight", "numeric", "kg", 1, 300),))


def read(job, root, *, unit="kg"):
    table = read_table(Path(root) / "shadows.csv", job.problems, ("file", "who", "weight", "x", "y", "w", "h"))
    source, studies = SourceAnnotations(["shadow"], len(table.rows), len(table.rows)), []
    for number, row in enumerate(table.rows):
        image = SourceImage(row["file"], row["file"], table.place(number))
        box = parse_box([row[c] for c in "xywh"], image.where, job)
        image.boxes = [{"bbox": box, "class": "shadow"}] if box else []
        studies.append(Study(image, Path(root) / row["file"], row={"weight": row["weight"]}, patient=row["who"]))
    return Content("Shadows", source, studies, SCHEMA, [table.path], {"unit": unit})


def options(parser):
    root_option(parser, "shadows.csv lies there")
    parser.add_argument("--unit", default="kg")


COLLECTION = Collection("made-up", __doc__, read, SCHEMA, options, "--root SHADOWS")
'''


def test_a_made_up_collection_is_one_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "made_up_shadows.py").write_text(MADE_UP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COLLECTIONS.entries, "made-up", Entry("made_up_shadows", "shadows_cxr"))
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "  made-up      Made-up radiographs: shadows, with the weight of the patient\n" in capsys.readouterr().out
    assert "made_up_shadows" not in sys.modules
    root = write_nih(tmp_path / "raw") / "images"
    rows = [f"{row[0]},{row[2]},{60 + row[2]},8,9,10,11" for row in NIH_ROWS]
    (root / "shadows.csv").write_text("\n".join(["file,who,weight,x,y,w,h", *rows]) + "\n")
    made = prepare("made-up", root, tmp_path / "shadows_cxr", "--image-size", "32", "--unit", "pounds")
    assert made.images["00000001_000"]["boxes"] == [("shadow", [4, 4.5, 5, 5.5])]
    assert made.values("weight")["00000006_000"] == 66 and made.report["arguments"]["unit"] == "pounds"
    assert made.images["00000001_000"]["split"] == made.images["00000001_001"]["split"]
    assert audit_folder(tmp_path / "shadows_cxr").problems == []


@pytest.mark.parametrize("name", list(COLLECTIONS))
def test_the_list_agrees_with_the_collections(name, capsys):
    collection = COLLECTIONS[name]
    assert collection.name == name and collection.help == COLLECTIONS.help(name) != ""
    parser = build_parser(collection)
    assert parser.parse_args([*collection.example.split(), "--out", "x"]).out == "x" if collection.example else True
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and f"usage: mdf prepare {name}" in capsys.readouterr().out


def test_an_unknown_name_is_told():
    with pytest.raises(UserError, match="no collection 'mimic'; did you mean mimic-eye[?]"):
        main(["mimic"])
    with pytest.raises(UserError, match="there are: own, synthetic, rsna"):
        main(["?"])


def test_the_list_needs_no_heavy_library():
    code = "import sys; sys.argv = ['mdf']; from mdf_detectron.cli import prepare; prepare.usage(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas", "detectron2", "cv2", "numpy"} & set(modules)


# --- what every collection says of bad input

BAD_ROWS = {
    # rows of the labels, or of the boxes; of padchest-gr those of the master table
    "rsna": [
        ("a4,1,2,3,4,0", "line 10: Target is '0' and there is a box"),
        ("a5,1,2,3,x,1", "line 10: box '1', '2', '3', 'x'; expected four numbers"),
        ("a2,,,,,1", "line 10: Target is '1' and there is no box"),
        (",1,2,3,4,1", "line 10: patientId is empty"),
        ("a9,,,,,0", "a9 is not in pneumonia"),
        ("a0,,", "line 10: 3 values, the header has 6"),
    ],
    "nih": [
        ("00000009_000.png,Nodule,1,2,3,4", "line 5: 00000009_000.png is not in the data entry table"),
        ("00000002_000.png,Nodule,1,2,3,4", "a box of 'Nodule', its findings are No Finding"),
        ("00000004_000.png,Tumor,1,2,3,4", "line 5: 00000004_000.png has a box of 'Tumor'"),
        ("00000004_000.png,Nodule,1,2,nan,4", "line 5: box '1', '2', 'nan', '4'; expected four numbers"),
    ],
    "vindr": [
        ("v3,ILD,5,R1,9,9,3,12", "line 14: box from x 9 to 3, y 9 to 12; expected minimum before maximum"),
        ("v3,ILD,5,R1,9,9,,12", "line 14: box '9', '9', '', '12'; expected four numbers"),
        ("v3,,5,R1,9,9,10,12", "line 14: class_name is empty, and there is a box"),
    ],
    "padchest-gr": [
        ("s5,other.png,,train,105,F,60", "ImageID 'i5.png': not in the master table"),
        ("s5,i5.png,,nowhere,105,F,60", "ImageID 'i5.png': no split"),
        ("s5,i5.png,,test,100,F,60", "patient '100' is in train and in test"),
        ("s5,i5.png,,test,,F,60", "no patient"),
    ],
    "ms-cxr": [
        ("unknown,Edema,x,p,1,2,3,4,400,500,", "unknown is not in the metadata of MIMIC-CXR-JPG"),
        (f"{dicom(1)},Edema,x,p,1,2,3,,400,500,", "box '1', '2', '3', ''; expected four numbers"),
        (f"{dicom(1)},Edema,x,p,1,2,3,4,500,400,", "has 500 × 400 pixels here and 400 × 500 before"),
        (f"{dicom(1)},Edema,x,p,1,2,3,4,many,500,", "image_width, image_height 'many', '500'"),
    ],
}


@pytest.mark.parametrize(
    ("name", "row", "message"), [(name, *case) for name, cases in BAD_ROWS.items() for case in cases]
)
def test_a_bad_row_is_named_or_counted(name, row, message, tmp_path):
    root, out = WRITERS[name](tmp_path / "raw", [row]), tmp_path / "out"
    with pytest.raises(SourceDataError) as error:
        prepare(name, root, out)
    assert message in str(error.value) and not out.exists()
    made = prepare(name, root, out, "--on-error", "skip")
    assert made.report["problems"] and "v3" not in made.images and "i5" not in made.images
    for stage in made.flow.values():
        assert stage["in"] == stage["kept"] + sum(stage["dropped"].values())


@pytest.mark.parametrize("name", WRITERS)
def test_absent_files_and_columns_are_named(name, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(SourceDataError, match="no folder .*nowhere|neither .*nowhere"):
        prepare(name, tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceDataError, match=r"it comes from|\(kaggle.com/"):
        prepare(name, tmp_path / "empty", out)
    root = WRITERS[name](tmp_path / "raw")
    table = next(path for pattern in ("*labels.csv", "Data_Entry*", "train.csv", "master*", "ms-cxr/*/*.csv",
                                                    "metadata.csv")
                 for path in root.glob(pattern))  # fmt: skip
    table.write_text("a,b\n1,2\n")
    with pytest.raises(SourceDataError, match=rf"{table.name}: no column .*; it has a, b$"):
        prepare(name, root, out)
    assert not out.exists()


# --- each collection


def test_rsna(tmp_path):
    root, out = write_rsna(tmp_path / "raw"), tmp_path / "rsna"
    made = prepare("rsna", root, out)
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


def test_rsna_without_the_mapping_warns(tmp_path, caplog):
    made = prepare("rsna", write_rsna(tmp_path / "raw", mapping=False), tmp_path / "rsna")
    assert {image["patient_id"] for image in made.images.values()} == {f"a{i}" for i in range(6)}
    assert "Images of one patient may be in several splits" in caplog.text
    assert any("Images of one patient may be in several splits" in note for note in made.report["notes"])


@pytest.mark.parametrize("mapping", ["{}", '[{"subset_img_id": "a0"}]', '[{"subset_img_id": "a0", "img_id": "x.png"}]'])
def test_another_mapping_is_refused(tmp_path, mapping):
    root = write_rsna(tmp_path / "raw")
    (root / MAPPING).write_text(mapping)
    with pytest.raises(SourceDataError, match="mapping"):
        prepare("rsna", root, tmp_path / "rsna")


def test_all_problems_of_a_table_are_told_at_once(tmp_path):
    rows = [row for row, _ in BAD_ROWS["rsna"]]
    root, out = write_rsna(tmp_path / "raw", rows, patients=(1, 2, 3, 3, 4, 5, 6, 7, 8, 9)), tmp_path / "rsna"
    with pytest.raises(SourceDataError) as error:
        prepare("rsna", root, out)
    for place in ("line 10: Target", "line 11: box", "line 12: Target", "line 13: patientId", "line 14: no image file",
                  "line 15: 3 values"):  # fmt: skip
        assert place in str(error.value)
    made = prepare("rsna", root, out, "--on-error", "skip")
    assert set(made.images) == {"a0", "a1", "a3"}  # what an unusable row may have said of the others is unknown
    assert made.flow["annotated images"]["in"] == 7
    assert made.flow["annotated images"]["dropped"] == {"unusable row (see the problems)": 3, "image file absent": 1}


def test_an_image_of_another_shape(tmp_path):
    root, out = write_rsna(tmp_path / "raw"), tmp_path / "rsna"
    save(radiograph(np.zeros((64, 48), np.uint16), PatientAge="62"), root / "stage_2_train_images" / "a1.dcm")
    with pytest.raises(SourceDataError, match=r"boxes are in 1024 × 1024 pixels, the file has 48 × 64"):
        prepare("rsna", root, out)
    made = prepare("rsna", root, out, "--on-error", "skip")
    assert "a1" not in made.images and not (out / "images" / "a1.dcm").exists()
    assert made.flow["boxes"]["dropped"]["its image was dropped"] == 2


def test_an_image_whose_only_box_is_outside_is_not_healthy(tmp_path):
    rows = [*RSNA_ROWS[:4], "a3,2000,100,200,300,1", *RSNA_ROWS[6:]]
    made = prepare("rsna", write_rsna(tmp_path / "raw", rows=rows), tmp_path / "rsna")
    assert "a3" not in made.images
    assert made.flow["annotated images"]["dropped"] == {"none of its boxes is usable": 1}


def test_copies_and_the_second_run(tmp_path, capsys):
    root, out = write_rsna(tmp_path / "raw"), tmp_path / "rsna"
    made = prepare("rsna", root, out, "--image-size", "32")
    assert (made.images["a1"]["width"], made.images["a1"]["file_name"]) == (32, "a1.png")
    assert made.images["a1"]["boxes"][0] == ("Lung opacity", [8, 16, 4, 8])
    prepare("rsna", root, out, "--image-size", "32")
    assert "already up to date" in capsys.readouterr().out
    prepare("rsna", root, out, "--image-size", "32", "--seed", "2")
    assert "written" in capsys.readouterr().out
    prepare("rsna", root, out, "--copy-images")
    assert "written" in capsys.readouterr().out and not (out / "images" / "a1.dcm").is_symlink()


def test_links_that_lead_nowhere_are_made_again(tmp_path, capsys):
    root, out = write_rsna(tmp_path / "raw"), tmp_path / "rsna"
    prepare("rsna", root, out)
    prepare("rsna", root.rename(tmp_path / "moved"), out)
    assert capsys.readouterr().out.count("written") == 2 and (out / "images" / "a0.dcm").is_symlink()


@pytest.mark.parametrize("layout", [{}, {"v1": True}, {"kaggle": True}])
def test_nih_keeps_boxed_and_healthy_images_only(tmp_path, layout):
    root, out = write_nih(tmp_path / "raw", **layout), tmp_path / "nih"
    made = prepare("nih", root, out)
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 7, "kept": 5, "dropped": {UNLABELED: 2}}
    assert made.flow["boxes"] == {"stage": "boxes", "in": 3, "kept": 2, "dropped": {"repeats another box": 1}}
    assert made.images["00000001_000"]["boxes"] == [("Infiltration", [16, 32, 8, 16])]
    assert made.images["00000004_000"]["boxes"] == [("Nodule", [6.28, 12.52, 4, 2])]
    assert made.images["00000002_000"]["boxes"] == []
    assert made.values("age") == {"00000001_000": 58, "00000001_001": None, "00000002_000": 58, "00000004_000": 33,
                                  "00000005_000": 20}  # fmt: skip
    assert made.images["00000001_000"]["split"] == made.images["00000001_001"]["split"]
    assert any(note.startswith("1 images with boxes have further findings") for note in made.report["notes"])
    assert audit_folder(out).problems == []


def test_an_image_in_two_rows(tmp_path):
    root = write_nih(tmp_path / "raw", rows=[*NIH_ROWS, NIH_ROWS[2]])
    with pytest.raises(SourceDataError, match=r"line 9: 00000002_000.png is in .* line 4 too"):
        prepare("nih", root, tmp_path / "nih")


def test_vindr_keeps_every_reader_or_fuses(tmp_path):
    root, out = write_vindr(tmp_path / "raw"), tmp_path / "vindr"
    made = prepare("vindr", root, out)
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 4, "kept": 4, "dropped": {}}
    assert made.flow["boxes"] == {"stage": "boxes", "in": 4, "kept": 4, "dropped": {}}
    assert made.images["v1"]["boxes"] == [
        ("Cardiomegaly", [10, 20, 40, 20]), ("Cardiomegaly", [12, 20, 40, 20]), ("ILD", [10, 20, 40, 20])]  # fmt: skip
    assert made.values("age") == {"v0": 52, "v1": None, "v2": None, "v3": None}
    assert made.values("sex") == {"v0": "M", "v1": "F", "v2": None, "v3": "M"}
    assert any("each image counts as a patient of its own" in note for note in made.report["notes"])
    assert audit_folder(out).problems == []
    made = prepare("vindr", root, out, "--readers", "fuse")  # another choice makes the folder new
    assert made.flow["boxes"] == {"stage": "boxes", "in": 4, "kept": 3, "dropped": {"fused with another box": 1}}
    assert sorted(made.images["v1"]["boxes"]) == [("Cardiomegaly", [11, 20, 40, 20]), ("ILD", [10, 20, 40, 20])]


def test_vindr_of_physionet(tmp_path):
    made = prepare("vindr", write_vindr_physionet(tmp_path / "raw"), tmp_path / "vindr", "--seed", "3")
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 6, "kept": 5, "dropped": {UNLABELED: 1}}
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


def test_padchest(tmp_path):
    root, out = write_padchest(tmp_path / "raw"), tmp_path / "padchest_gr"
    made = prepare("padchest-gr", root, out, "--min-images", "2")
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


@pytest.mark.parametrize("box", [[0.5, 0.1, 0.2, 0.3], [0.1, 0.2], ["x", 0, 1, 1], None])
def test_boxes_of_padchest_that_are_none(tmp_path, box):
    root = write_padchest(tmp_path / "raw", findings=[finding(box)])
    with pytest.raises(SourceDataError, match="entry 5: box"):
        prepare("padchest-gr", root, tmp_path / "out")


def test_no_list_of_studies(tmp_path):
    root = write_padchest(tmp_path / "raw")
    (root / "grounded_reports_20240819.json").write_text('{"findings": []}')
    with pytest.raises(SourceDataError, match="expected a list of studies"):
        prepare("padchest-gr", root, tmp_path / "out")


def test_ms_cxr_has_the_record_of_the_visit(tmp_path):
    made = prepare("ms-cxr", write_ms_cxr(tmp_path / "raw"), tmp_path / "out", "--keep-unmatched")
    total = len(CASES)
    for index, case in enumerate(CASES):
        image = made.images[dicom(index)]
        expected = case.expected_row if case.stay is not None else {**NOTHING, "age": case.age, "gender": case.gender}
        assert image["clinical"] == expected, case.name
        assert image["patient_id"] == str(subject(index))
        assert ("Pneumonia", [10 + index, 20, 100, 50]) in image["boxes"]
    assert made.images[dicom(0)]["boxes"] == [("Pneumonia", [10, 20, 100, 50]), ("Edema", [1, 2, 30.5, 40])]
    assert made.flow["boxes"] == {"stage": "boxes", "in": total + 2, "kept": total + 1,
                                  "dropped": {"repeats another box": 1}}  # fmt: skip
    pressures = "diastolic not below systolic: both removed"
    assert made.flow["triage values"]["dropped"] == {
        "temperature: outside 80 to 113 °F": 1, "o2sat: outside 50 to 100 %": 1, "heartrate: empty": 1,
        "pain: empty": 1, "pain: not a number": 1, "pain: outside 0 to 10 0-10": 1, "acuity: outside 1 to 5 1-5": 1,
        f"sbp: {pressures}": 2, f"dbp: {pressures}": 2,
    }  # fmt: skip
    assert "1 values of temperature were changed: °C converted to °F." in made.report["notes"]
    assert any("healthy images from another folder" in note for note in made.report["notes"])
    assert audit_folder(tmp_path / "out").problems == []
    made = prepare("ms-cxr", tmp_path / "raw", tmp_path / "out")
    dropped: dict[str, int] = {}
    for case in CASES:
        if case.stay is None:
            dropped[case.match] = dropped.get(case.match, 0) + 1
    assert made.flow["annotated images"]["dropped"] == dropped
    assert all(image["row_time"] < image["study_time"] for image in made.images.values())


def test_ms_cxr_needs_its_table(tmp_path):
    Tree().write_physionet(tmp_path / "raw")
    with pytest.raises(SourceDataError, match=r"physionet.org/content/ms-cxr, or point --boxes"):
        prepare("ms-cxr", tmp_path / "raw", tmp_path / "out")


def test_covid(tmp_path):
    root, out = write_covid(tmp_path / "raw"), tmp_path / "out"
    made = prepare("covid", root, out)
    assert made.flow["annotated images"] == {"stage": "annotated images", "in": 18, "kept": 9, "dropped": {
        "not a frontal radiograph (CT slice or other view)": 1, "no usable box": 1, "image file absent": 1,
        "no row in metadata.csv": 1, "annotated at another shape": 1, "no patient": 1, "file of another entry": 1,
        "entry without the size its boxes are given in": 2,
    }}  # fmt: skip
    assert made.flow["rows of metadata.csv"]["dropped"] == {"second row of a file": 1}
    boxes = made.flow["boxes"]
    assert (boxes["in"], boxes["kept"], boxes["dropped"]["its image was dropped"] > 0) == (38, 18, True)
    assert boxes["dropped"]["unusable box"] == 3
    assert boxes["dropped"]["box without area inside its image"] == 1
    assert set(made.images) == {*(f"f{i}" for i in range(7)), "dirty", "comma"}
    assert made.images["f0"]["boxes"][0] == ("Right Lung", [0.0, 10.0, 30.0, 90.0])  # clamped to 80×100
    lungs = [("Right Lung", [5.0, 10.0, 30.0, 60.0]), ("Left Lung", [45.0, 10.0, 30.0, 60.0])]
    assert made.images["f3"]["boxes"] == made.images["f2"]["boxes"] == lungs  # rescaled
    assert made.images["f0"]["split"] == made.images["f6"]["split"] and made.values("age")["f3"] == 33
    assert set(made.images["f6"]["clinical"].values()) == {None}
    assert made.images["dirty"]["clinical"] == {
        "age": None, "temperature": None, "pO2_saturation": None, "leukocyte_count": 1.0, "neutrophil_count": 1.0,
        "lymphocyte_count": 1.0, "offset": 1.0, "sex": None,
    }  # fmt: skip
    missing = made.flow["clinical values"]["dropped"]
    for reason in ("temperature: outside 30 to 45 °C", "sex: not in the vocabulary", "age: empty",
                   "temperature: a decimal comma (--decimal-comma reads it)"):  # fmt: skip
        assert missing[reason] == 1, reason
    assert (out / "images" / "f0.png").is_symlink() and audit_folder(out).problems == []
    assert prepare("covid", root, out, "--decimal-comma").values("temperature")["comma"] == 38.1


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda c: c["images"][1].update(id=0), "image id 0 occurs twice"),
     (lambda c: c["images"][1].update(file_name="../f1.png"), "'../f1.png' leads out of the images folder"),
     (lambda c: c["annotations"][1].pop("image_id"), "not COCO detection JSON")],
)  # fmt: skip
def test_contradictory_boxes_of_covid_are_refused(change, message, tmp_path):
    with pytest.raises(SourceDataError, match=message):
        prepare("covid", write_covid(tmp_path / "raw", change), tmp_path / "out")
