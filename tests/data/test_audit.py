"""Each thing that can be wrong with a prepared folder is found, and named; the tool's exit status says so."""

import json
import math
import shutil

import pytest
from PIL import Image
from tiny_training import edit

from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.prepare import prepare_synthetic


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "sound"
    prepare_synthetic(out, CohortSettings(num_patients=12, seed=1, image_size=64), num_workers=1)
    return out


@pytest.fixture
def folder(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "folder")
    return tmp_path / "folder"


def names(folder, split):
    return [i["file_name"] for i in json.loads((folder / "annotations" / f"{split}.json").read_text())["images"]]


def found(folder):
    return {(f.kind, f.message) for f in audit_folder(folder).problems}


def test_sound_folder_passes(sound):
    audit = audit_folder(sound)
    assert audit.problems == [] and not any("sha256" in text for text in audit.unchecked)


def test_spellings_of_one_patient_are_found(folder):
    for split, spelling in (("train", 1001), ("val", "1001.0"), ("test", "1001 ")):
        edit(folder, split, lambda d, spelling=spelling: d["images"][0].update(patient_id=spelling))
    (problem,) = audit_folder(folder).problems
    assert problem.kind == "patient in several splits" and "patient 1001 is in train" in problem.message
    for split, spelling in (("train", "AB-01"), ("val", "ab1"), ("test", "cd1")):
        edit(folder, split, lambda d, spelling=spelling: d["images"][0].update(patient_id=spelling))
    (problem,) = audit_folder(folder).problems
    assert problem.kind == "patients that may be one" and "'AB-01' (train); 'ab1' (val)" in problem.message


def change_box(box):
    return lambda data: data["annotations"][0].update(bbox=box)


def change_image(**values):
    return lambda data: data["images"][0].update(values)


def turn_classes(data):
    for category in data["categories"]:
        category["id"] *= -1
    data["annotations"].clear()


AT_EIGHT = "2150-01-01T08:00:00"
PROBLEMS = [
    (turn_classes, "classes differ between splits", "train has ["),
    *((change_box(box), "box outside its image", f"bbox {box}") for box in ([-2, 0, 10, 10], [0, 0, 1000, 5])),
    *((change_box(box), "unusable box", f"bbox {box}") for box in ([5, 5, 0, 4], [1, 2, 3], [1, 2, math.nan, 3])),
    (change_box(None), "unusable annotation", "no bbox"),
    (lambda d: d["annotations"][0].update(image_id=10**6), "annotation of nothing", "image_id 1000000"),
    (lambda d: d["images"][0]["clinical"].update(heartrate=999), "value outside the schema", "heartrate"),
    (change_image(study_time=AT_EIGHT, row_time="2150-01-01T09:00:00"), "image older than its clinical record", "T09"),
    (change_image(study_time="soon", row_time=AT_EIGHT), "unreadable time", "expected ISO 8601"),
    (lambda d: d["images"][0].pop("file_name"), "unusable image entry", "images[0] (id"),
    (lambda d: d["images"][0].pop("width"), "unusable image entry", "no width; every image needs"),
    (lambda d: d["annotations"][0].pop("image_id"), "unusable annotation", "no image_id; every annotation needs"),
]


@pytest.mark.parametrize(("change", "kind", "text"), PROBLEMS)
def test_one_wrong_entry_is_one_problem(folder, change, kind, text):
    edit(folder, "test", change)
    (problem,) = audit_folder(folder).problems
    assert problem.kind == kind and text in problem.message


def test_what_could_not_be_checked_is_said(folder):
    unchecked = audit_folder(folder).unchecked  # a synthetic folder has no times; re-encoded copies
    assert len(unchecked) == 2 and "no image has study_time" in unchecked[0]
    report = json.loads((folder / "report.json").read_text()) if (folder / "report.json").exists() else {}
    (folder / "report.json").write_text(json.dumps({**report, "patients_known": False}))
    edit(folder, "train", lambda d: d["images"][0].update(study_time="2020-01-02T10:00", row_time="2020-01-02"))
    unknown, times, _ = audit_folder(folder).unchecked
    assert "the sources do not tell whose they are" in unknown and "images lack study_time and row_time" in times
    edit(folder, "val", lambda d: d["annotations"].clear())
    (folder / "annotations/test.json").write_text("{")
    (folder / "images" / names(folder, "train")[0]).unlink()
    (folder / "clinical_schema.yaml").unlink()
    text = "\n".join(audit_folder(folder).unchecked)
    for part in (
        "split val has no annotation",
        "anything about split test",
        "the sizes of 1 images",
        "clinical records",
    ):
        assert part in text


def test_shared_image_under_another_name(folder):
    train, test = names(folder, "train")[0], names(folder, "test")[0]
    (folder / "images" / test).unlink()
    (folder / "images" / test).symlink_to(train)
    kinds = {kind for kind, _ in found(folder)}
    assert "image in several splits" in kinds and "equal pixels in several splits" not in kinds


def test_copied_file(folder):
    train, test = names(folder, "train")[0], names(folder, "test")[0]
    Image.open(folder / "images" / train).save(folder / "images" / test, "TIFF")  # other bytes, the same pixels
    message = next(m for kind, m in found(folder) if kind == "equal pixels in several splits")
    assert train in message and test in message


def test_unreadable_and_resized_images(folder):
    first, second = names(folder, "train")[:2]
    (folder / "images" / first).write_bytes(b"nothing")
    edit(folder, "train", lambda d: d["images"][1].update(height=999))
    messages = dict(found(folder))
    assert first in messages["unreadable image"] and second in messages["image of another size"]


def test_broken_files(folder):
    (folder / "annotations/val.json").write_text("{")
    (folder / "clinical_schema.yaml").unlink()
    assert {f.kind for f in audit_folder(folder).problems} == {"unreadable annotation file", "no usable schema"}


def test_folds_are_audited_too(folder):
    fold = folder / "fold_0"
    shutil.copytree(folder / "annotations", fold / "annotations")
    shutil.copy(folder / "clinical_schema.yaml", fold)
    (fold / "images").symlink_to("../images")
    assert audit_folder(folder).problems == []
    shutil.copy(fold / "annotations/train.json", fold / "annotations/test.json")
    assert (
        all(f.message.startswith("fold_0: ") for f in audit_folder(folder).problems) and audit_folder(folder).problems
    )


def test_command_line(sound, folder, run, capsys):
    assert f"{sound}: passes" in run("audit", sound)
    shutil.copy(folder / "annotations/train.json", folder / "annotations/test.json")
    with pytest.raises(SystemExit) as end:
        run("audit", folder, "--list", 1)
    printed = capsys.readouterr().out
    assert end.value.code == 1 and "image in several splits" in printed and "more (--list" in printed
    for command in ("audit", "describe"):
        with pytest.raises(SystemExit, match="error: .*none: there is no such folder"):
            run(command, folder / "none")
