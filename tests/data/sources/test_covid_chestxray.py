"""The public collection's dirt on a tree made here, counted by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from mdf_detectron.cli.prepare import main
from mdf_detectron.errors import DatasetError, SourceDataError
from mdf_detectron.fileio import sha256_of

HEADER = (
    "patientid,offset,sex,age,temperature,pO2_saturation,leukocyte_count,neutrophil_count,lymphocyte_count,"
    "view,modality,filename"
)


def make_tree(root, extra_rows=(), extra_images=()):
    """Six images of six patients (two of the first one more), a CT slice, an absent file, null and foreign boxes."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    rows = [f"{i},3,{'FM'[i % 2]},{30 + i},36.6,97,,,,PA,X-ray,f{i}.png" for i in range(6)]
    rows += [
        "0,,,,,,,,,AP,X-ray,f6.png",  # second image of patient 0, all values missing
        "7,1,X,300,98.6,120,1,1,1,PA,X-ray,dirty.png",  # sex, age, °F temperature and saturation out of range
        "8,0,F,50,37,95,,,,Axial,CT,ct.png",
        "9,0,F,50,37,95,,,,PA,X-ray,absent.png",
        "10,0,F,50,37,95,,,,PA,X-ray,null.png",
        *extra_rows,
    ]
    (root / "metadata.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    gray = np.arange(100 * 80, dtype=np.uint32).reshape(100, 80).astype(np.uint8)
    modes = {"f0": "RGB", "f1": "RGBA", "f2": "L"}
    names = [f"f{i}.png" for i in range(7)] + ["dirty.png", "ct.png", "null.png"]
    for name in names:
        Image.fromarray(gray).convert(modes.get(name[:2], "L")).save(root / "images" / name)
    files = [*names, "absent.png", "norow.png", *extra_images]
    images = [{"id": i, "file_name": n, "width": 80, "height": 100} for i, n in enumerate(files)]
    images[3] |= {"width": 160, "height": 200}  # boxes in the pixels of a copy twice as large
    annotations = []
    for image in images:
        scale = image["width"] / 80
        for category, x in ((1, 5), (2, 45)):
            box = [x * scale, 10 * scale, 30 * scale, 60 * scale]
            box = [None] * 4 if image["file_name"] == "null.png" else box
            annotations.append({"id": len(annotations), "image_id": image["id"], "category_id": category, "bbox": box})
    annotations[0]["bbox"] = [-10, 10, 40, 200]  # leaves the image on two sides
    annotations.append({"id": 99, "image_id": 1, "category_id": 1, "bbox": [90, 10, 5, 5]})  # outside
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "Right Lung"}, {"id": 2, "name": "Left Lung"}],
    }
    path = root / "annotations" / "imageannotation_ai_lung_bounding_boxes.json"
    path.write_text(json.dumps(coco))
    return root


def prepare_covid(root, out, *options):
    """Prepare; returns whether the folder was written."""
    before = out.stat().st_ino if out.exists() else None
    main(["covid", "--root", str(root), "--out", str(out), "--num-workers", "1", *options])
    return out.stat().st_ino != before


def read(out):
    report = json.loads((out / "report.json").read_text())
    images, boxes = {}, {}
    for split in ("train", "val", "test"):
        data = json.loads((out / "annotations" / f"{split}.json").read_text())
        for image in data["images"]:
            assert image["sha256"] == sha256_of(out / "images" / image["file_name"])
            images[image["file_name"]] = {**image, "split": split}
            boxes[image["file_name"]] = [a["bbox"] for a in data["annotations"] if a["image_id"] == image["id"]]
    return {stage["stage"]: stage for stage in report["flow"]}, images, boxes


def test_every_input_is_accounted_for(tmp_path):
    root, out = make_tree(tmp_path / "raw"), tmp_path / "covid_cxr"
    assert prepare_covid(root, out)
    flow, images, boxes = read(out)
    assert flow["annotated images"] == {
        "stage": "annotated images",
        "in": 12,
        "kept": 8,
        "dropped": {
            "not a frontal radiograph (CT slice or other view)": 1,
            "no usable box": 1,
            "image file absent": 1,
            "no row in metadata.csv": 1,
        },
    }
    assert flow["boxes"]["in"] == 25 and flow["boxes"]["kept"] == 16
    assert flow["boxes"]["dropped"]["no box (null or not four numbers)"] == 2
    assert flow["boxes"]["dropped"]["box without area inside its image"] == 1
    assert set(images) == {*(f"f{i}.png" for i in range(7)), "dirty.png"}
    assert boxes["f0.png"][0] == [0.0, 10.0, 30.0, 90.0]  # clamped to 80×100
    assert boxes["f3.png"] == boxes["f2.png"] == [[5.0, 10.0, 30.0, 60.0], [45.0, 10.0, 30.0, 60.0]]  # rescaled
    assert images["f0.png"]["split"] == images["f6.png"]["split"]
    assert set(images["f6.png"]["clinical"].values()) == {None}
    assert images["dirty.png"]["clinical"] | {"neutrophil_count": None} == {
        "age": None, "temperature": None, "pO2_saturation": None, "leukocyte_count": 1.0, "neutrophil_count": None,
        "lymphocyte_count": 1.0, "offset": 1.0, "sex": None,
    }  # fmt: skip
    missing = flow["clinical values"]["dropped"]
    assert missing["temperature: outside 30 to 45 °C"] == 1
    assert missing["sex: not in the vocabulary"] == 1
    assert missing["age: empty"] == 1
    assert (out / "images" / "f0.png").is_symlink()


def test_idempotent_and_redone_when_a_source_changes(tmp_path):
    root, out = make_tree(tmp_path / "raw"), tmp_path / "covid_cxr"
    assert prepare_covid(root, out) and not prepare_covid(root, out)
    assert prepare_covid(root, out, "--copy-images")
    assert not (out / "images" / "f0.png").is_symlink()
    with open(root / "metadata.csv", "a") as table:
        table.write("11,0,F,50,37,95,,,,PA,X-ray,other.png\n")
    assert prepare_covid(root, out, "--copy-images")


def test_an_unreadable_image_stops_or_is_counted(tmp_path):
    root, out = make_tree(tmp_path / "raw"), tmp_path / "covid_cxr"
    (root / "images" / "f2.png").write_bytes(b"not an image")
    with pytest.raises(SourceDataError, match="cannot read image .*f2.png"):
        prepare_covid(root, out)
    assert not out.exists() and not out.with_name("covid_cxr.partial").exists()
    prepare_covid(root, out, "--on-error", "skip")
    assert read(out)[0]["annotated images"]["dropped"]["unreadable image"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("temperature", "temp"), "no column 'temperature'"),
        (lambda text: "", "metadata.csv: the file is empty"),
        (None, "no .*metadata.csv; it comes from github.com/ieee8023"),
    ],
)
def test_bad_tables_are_one_clear_message(tmp_path, change, message):
    path = make_tree(tmp_path / "raw") / "metadata.csv"
    path.write_text(change(path.read_text())) if change else path.unlink()
    with pytest.raises(SourceDataError, match=message):
        prepare_covid(tmp_path / "raw", tmp_path / "out")


def change_boxes(root, change):
    path = root / "annotations" / "imageannotation_ai_lung_bounding_boxes.json"
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["images"][1].update(id=0), "image id 0 occurs twice"),
        (lambda c: c["images"][1].update(file_name="../f1.png"), "'../f1.png' leads out of the images folder"),
        (lambda c: c["annotations"][1].pop("image_id"), "not COCO detection JSON"),
    ],
)
def test_contradictory_boxes_are_refused(tmp_path, change, message):
    root = make_tree(tmp_path / "raw")
    change_boxes(root, change)
    with pytest.raises(SourceDataError, match=message):
        prepare_covid(root, tmp_path / "out")


def test_entries_without_numbers_and_doubled_rows_are_counted(tmp_path):
    root, out = make_tree(tmp_path / "raw", extra_rows=["3,3,M,99,36.6,97,,,,PA,X-ray,f3.png"]), tmp_path / "out"

    def change(coco):
        coco["images"][1]["width"] = 0
        del coco["images"][2]["height"]
        coco["annotations"][-2]["bbox"] = [1, 2, float("nan"), 4]

    change_boxes(root, change)
    prepare_covid(root, out)
    flow, images, _ = read(out)
    assert flow["annotated images"]["dropped"]["entry without the size its boxes are given in"] == 2
    assert flow["rows of metadata.csv"]["dropped"] == {"second row of a file": 1}
    assert images["f3.png"]["clinical"]["age"] == 33


def test_links_that_lead_nowhere_are_made_again(tmp_path):
    root, out = make_tree(tmp_path / "raw"), tmp_path / "out"
    prepare_covid(root, out)
    root = root.rename(tmp_path / "moved")
    assert prepare_covid(root, out)
    assert (out / "images" / "f0.png").exists() and not prepare_covid(root, out)


def test_another_folder_is_never_replaced(tmp_path):
    root, out = make_tree(tmp_path / "raw"), tmp_path / "home"
    out.mkdir()
    (out / "thesis.txt").write_text("work")
    with pytest.raises(DatasetError, match="not a prepared dataset folder"):
        prepare_covid(root, out)
    assert (out / "thesis.txt").read_text() == "work"


def prepare_changed(tmp_path, change, *options):
    """Change each row of the table, given as a list of values, and prepare; returns flow and images."""
    root = make_tree(tmp_path / "raw")
    lines = (root / "metadata.csv").read_text().splitlines()
    rows = [change(number, line.split(",")) for number, line in enumerate(lines[1:])]
    (root / "metadata.csv").write_text("\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n")
    prepare_covid(root, tmp_path / "out", *options)
    return read(tmp_path / "out")[:2]


def test_one_patient_in_two_spellings_is_in_one_split(tmp_path):
    ids = ("12", "12.0", "12 ", "13", "13.0", "14", "15", "16.0")
    for seed in range(5):
        _, images = prepare_changed(tmp_path / str(seed), lambda i, row: [*ids[i : i + 1], *row[1:]] if i < 8 else row,
                                    "--seed", str(seed))  # fmt: skip
        assert [images[f"f{i}.png"]["patient_id"] for i in range(5)] == ["12", "12", "12", "13", "13"]
        assert len({images[f"f{i}.png"]["split"] for i in range(3)}) == 1
        assert images["f3.png"]["split"] == images["f4.png"]["split"]


@pytest.mark.parametrize("blank", ["", " ", "nan"])
def test_an_image_without_a_patient_is_dropped(tmp_path, blank):
    flow, images = prepare_changed(tmp_path, lambda i, row: [blank, *row[1:]] if i == 1 else row)
    assert "f1.png" not in images and flow["annotated images"]["dropped"]["no patient"] == 1


@pytest.mark.parametrize(
    ("column", "raw", "value", "reason"),
    [
        (2, "f", "F", None), (2, "Female", "F", None), (2, "male", "M", None), (2, "F ", "F", None),
        (2, "nan", None, "sex: empty"), (3, "-3", None, "age: outside 0 to 120 years"),
        (3, "true", None, "age: a boolean is not a number"), (3, "inf", None, "age: not finite"),
        (3, "many", None, "age: not a number"),
        (4, '"38,1"', None, "temperature: a decimal comma (--decimal-comma reads it)"),
    ],
)  # fmt: skip
def test_values_are_folded_or_counted_with_their_reason(tmp_path, column, raw, value, reason):
    change = lambda i, row: [*row[:column], raw, *row[column + 1 :]] if i == 1 else row  # noqa: E731
    flow, images = prepare_changed(tmp_path / "changed", change)
    before, _ = prepare_changed(tmp_path / "before", lambda i, row: row)
    assert images["f1.png"]["clinical"][("sex", "age", "temperature")[column - 2]] == value
    if reason:
        counts = [f["clinical values"]["dropped"].get(reason, 0) for f in (before, flow)]
        assert counts[1] == counts[0] + 1
    if raw == '"38,1"':
        _, images = prepare_changed(tmp_path / "comma", change, "--decimal-comma")
        assert images["f1.png"]["clinical"]["temperature"] == 38.1


def test_boxes_of_another_shape_are_dropped_and_never_stretched(tmp_path):
    root = make_tree(tmp_path / "raw")
    change_boxes(root, lambda coco: coco["images"][1].update(width=100, height=80))
    prepare_covid(root, tmp_path / "out")
    flow, images, _ = read(tmp_path / "out")
    assert "f1.png" not in images and flow["annotated images"]["dropped"]["annotated at another shape"] == 1
    assert flow["boxes"]["dropped"]["its image was dropped"] >= 2


@pytest.mark.parametrize("copy_images", [False, True])
def test_one_file_of_two_entries(tmp_path, copy_images):
    root = make_tree(tmp_path / "raw")

    def change(coco):
        coco["images"].append({"id": 77, "file_name": "f0.png", "width": 80, "height": 100})
        coco["annotations"].append({"id": 100, "image_id": 77, "category_id": 1, "bbox": [1, 1, 20, 20]})

    change_boxes(root, change)
    prepare_covid(root, tmp_path / "out", *["--copy-images"] * copy_images)
    flow, images, boxes = read(tmp_path / "out")
    assert flow["annotated images"]["dropped"]["file of another entry"] == 1
    assert len(boxes["f0.png"]) == 2 and len(images) == 8
