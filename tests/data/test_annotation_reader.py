"""The one reader of annotation JSON: what it normalizes, what it refuses, and that its fast path decides the same."""

import copy
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdf_detectron.data import annotations as module
from mdf_detectron.data.annotations import check_annotations, read_annotations
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.splits import balanced_parts, grouped_folds, look_alike, patient_key
from mdf_detectron.errors import DatasetError
from mdf_detectron.evaluation.coco import GroundTruth

SCHEMA = ClinicalSchema((ClinicalColumn("age", "numeric", "years", 0, 120),))
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def content():
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48, "patient_id": f"p{i}",
               "clinical": {"age": 40 + i}} for i in (1, 2, 3)]  # fmt: skip
    boxes = [
        {"id": n, "image_id": i, "category_id": c, "bbox": [10, 10, 20, 20], "segmentation": [SQUARE], "iscrowd": 0}
        for n, (i, c) in enumerate([(1, 1), (1, 2), (3, 1)], start=1)
    ]
    categories = [{"id": 2, "name": "mass"}, {"id": 1, "name": "effusion"}]
    return {"images": images, "annotations": boxes, "categories": categories}


def check(data, **options):
    return check_annotations(data, "set.json", **{"prepared": True, "schema": SCHEMA, **options})


def test_a_sound_file_is_returned_as_it_is():
    data = content()
    found = check(copy.deepcopy(data))
    assert found.images == data["images"] and found.annotations == data["annotations"]
    assert found.class_names == ["effusion", "mass"]


def test_whole_floats_texts_and_spellings_become_one_form():
    data = content()
    data["images"][0].update(id=1.0, width=64.0, height=48.0, patient_id=200.0)
    data["images"][1].update(patient_id=" 200 ")
    data["annotations"][0].update(image_id=1.0, category_id=2.0, iscrowd=1.0)
    data["annotations"][1].update(segmentation=[])
    data["categories"][0]["name"] = " mass "
    found = check(data)
    assert {k: type(found.images[0][k]) for k in ("id", "width", "height")} == dict.fromkeys(
        ("id", "width", "height"), int
    )
    assert [image["patient_id"] for image in found.images] == ["200", "200", "p3"]
    assert found.annotations[0]["image_id"] == 1 and type(found.annotations[0]["iscrowd"]) is int
    assert "segmentation" not in found.annotations[1] and "segmentation" in found.annotations[2]
    assert found.class_names == ["effusion", "mass"]


BROKEN = [
    ("images", 1, {"file_name": "../x.png"}, "file_name '../x.png' leads out of the folder"),
    ("images", 1, {"file_name": "/x.png"}, "leads out of the folder"),
    ("images", 1, {"file_name": "C:\\x.png"}, "leads out of the folder"),
    ("images", 1, {"file_name": "."}, "names the folder"),
    ("images", 1, {"file_name": 7}, "file_name 7; expected a path below images/"),
    ("images", 1, {"file_name": "a\0b"}, "expected a path below images/"),
    ("images", 1, {"width": 64.5}, "width 64.5; expected a whole number of pixels from 1 to 100000"),
    ("images", 1, {"width": "64"}, "width '64'; expected a whole number"),
    ("images", 1, {"height": 0}, "height 0; expected"),
    ("images", 1, {"height": True}, "height True; expected"),
    ("images", 1, {"height": 10**400}, "height 10+.*0; expected"),
    ("images", 1, {"id": 1}, "two images have the id 1"),
    ("images", 1, {"id": "2"}, r"text \('2'\), the first id is a number \(1\); use one kind"),
    ("images", 1, {"id": 2.5}, "id 2.5; expected a whole number or a text"),
    ("images", 1, {"patient_id": math.nan}, "patient_id nan is no patient"),
    ("images", 1, {"patient_id": " "}, "patient_id ' ' is no patient"),
    ("images", 1, {"patient_id": "None"}, "patient_id 'None' is no patient"),
    ("images", 1, {"patient_id": None}, "no patient_id; every image needs"),
    ("images", 1, {"patient_id": [1]}, r"patient_id \[1\]: a patient id is a text or a number"),
    ("images", 1, {"sha256": "0" * 63}, "sha256 '0+'; expected 64 hexadecimal digits"),
    ("images", 1, {"sha256": ["0" * 64]}, "sha256 .*; expected 64 hexadecimal digits"),
    ("images", 1, {"clinical": [40]}, r"clinical \[40\]; expected an object"),
    ("images", 1, {"clinical": {"age": True}}, "column 'age' is the boolean True, not a number"),
    ("images", 1, {"clinical": {"age": 500}}, r"column 'age' is 500, outside its legal range \[0, 120\] years"),
    ("categories", 1, {"name": "mass"}, "two categories have the name 'mass'"),
    ("categories", 1, {"name": 3}, "name 3; expected a text"),
    ("categories", 1, {"id": 2}, "two categories have the id 2"),
    ("annotations", 1, {"image_id": 9}, "image_id 9 is not among the images"),
    ("annotations", 1, {"image_id": "1"}, "image_id '1' is not among the images: it is text, their ids are numbers"),
    ("annotations", 1, {"image_id": True}, "image_id True; expected a whole number or a text"),
    ("annotations", 1, {"category_id": "1"}, "it is text, their ids are numbers"),
    ("annotations", 1, {"id": 1}, "two annotations have the id 1"),
    ("annotations", 1, {"bbox": [1, 1, 0, 5]}, r"bbox \[1, 1, 0, 5\] has no area"),
    ("annotations", 1, {"bbox": [1, 1, -2, 5]}, "negative size"),
    ("annotations", 1, {"bbox": [1, 1, 5]}, r"is not \[x, y, width, height\]"),
    ("annotations", 1, {"bbox": [1, "1", 5, 5]}, "holds something that is not a number"),
    ("annotations", 1, {"bbox": [1, True, 5, 5]}, "holds something that is not a number"),
    ("annotations", 1, {"bbox": [1, math.inf, 5, 5]}, "is not finite"),
    ("annotations", 1, {"bbox": [1, 10**400, 5, 5]}, "is not finite"),
    ("annotations", 1, {"bbox": [0, 0, 5, 1e9]}, "is not of pixels"),
    ("annotations", 1, {"bbox": [64, 0, 5, 5]}, "lies outside the 64 × 48 image"),
    ("annotations", 1, {"bbox": [0, -5, 5, 5]}, "lies outside the 64 × 48 image"),
    ("annotations", 1, {"iscrowd": "0"}, "iscrowd '0'; write 0 or 1"),
    ("annotations", 1, {"iscrowd": 2}, "iscrowd 2; write 0 or 1"),
    ("annotations", 1, {"iscrowd": False}, "iscrowd False; write 0 or 1"),
    ("annotations", 1, {"area": -1}, "area -1; expected"),
    ("annotations", 1, {"area": "4"}, "area '4'; expected"),
    ("annotations", 1, {"segmentation": [[8, 6, 32, 32]]}, "polygon 0 .* has 4 numbers"),
    ("annotations", 1, {"segmentation": [[10**400] * 6]}, "not finite, or beyond 1,000,000 pixels"),
    ("annotations", 1, {"segmentation": {"size": [10**9, 10**9], "counts": "0"}}, "whole pixels from 1 to 100,000"),
    ("annotations", 1, {"segmentation": SQUARE}, "is a flat list of numbers"),
    ("annotations", 1, {"segmentation": {"size": [48, 64], "counts": "garbage"}}, "no run-length encoding"),
]


@pytest.mark.parametrize(("part", "number", "change", "message"), BROKEN)
def test_broken_entries_are_named_and_left_out_of_an_audit(part, number, change, message):
    data = content()
    data[part][number].update(change)
    with pytest.raises(DatasetError, match=rf"^set.json: {part}\[{number}\] \(.*\): .*{message}") as error:
        check(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    reported = []
    found = check(data, report=lambda kind, text: reported.append((kind, text)))
    assert reported[0][1] == str(error.value)
    assert len(reported) == (3 if (part, change) == ("categories", {"id": 2}) else 1)  # nothing of what refers to it
    if part == "annotations":
        assert len(found.annotations) == 2


def test_files_that_are_no_coco_files(tmp_path):
    for data, message in (([], "no 'images' list"), ({"images": [], "annotations": []}, "no 'categories' list")):
        with pytest.raises(DatasetError, match=message):
            check(data)
    with pytest.raises(DatasetError, match=r"images\[0\]: expected an object, got 3"):
        check({**content(), "images": [3]})
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content()), encoding="utf-8-sig")
    assert len(read_annotations(path, prepared=True).images) == 3
    path.write_text('{"images": [], "annotations": [], "images": [], "categories": []}')
    with pytest.raises(DatasetError, match="set.json: .*the key 'images' appears twice"):
        read_annotations(path, prepared=True)


def test_scoring_asks_for_less_than_training():
    data = content()
    for image in data["images"]:
        for key in ("file_name", "width", "height", "patient_id"):
            del image[key]
    del data["categories"][0]["name"]
    found = check(data, prepared=False, schema=None)
    assert found.class_names == ["effusion", "2"] and found.images[0]["patient_id"] is None
    data["categories"][0]["name"] = "mass"
    with pytest.raises(DatasetError, match="no file_name, width, height, patient_id; every image needs"):
        check(data)


ODD = [0, 1, 1.0, 2, 3, -1, "1", True, None, math.nan, 10**400, [10, 10, 20, 20], [0, 0, 1e7, 1], [], ()]
KEYS = ["id", "image_id", "category_id", "bbox", "iscrowd", "area"]


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(KEYS), st.sampled_from(ODD)), max_size=3))
def test_the_fast_path_decides_as_entry_by_entry(changes):
    data = content()
    for number, key, value in changes:
        data["annotations"][number][key] = value

    def outcome():
        try:
            return check(copy.deepcopy(data)).annotations
        except DatasetError as error:
            return str(error)

    fast, plain = outcome(), module._all_plain
    module._all_plain = lambda *a, **k: False
    try:
        assert repr(outcome()) == repr(fast)
    finally:
        module._all_plain = plain


@pytest.mark.parametrize("value", [200, 200.0, "200", "200.0", "200 ", " 200.", "200.00"])
def test_spellings_of_one_patient(value):
    assert patient_key(value) == "200"
    assert set(grouped_folds([200, value, "7", "8"], [0] * 4, 2, 0)[:2]) in ({0}, {1})


def test_patients_that_are_none_or_that_look_alike():
    assert [patient_key(v) for v in (None, math.nan, "", " ", "NaN", "none", "NULL", "<NA>")] == [None] * 8
    assert patient_key("007") == "007" and patient_key(2.5) == "2.5" and patient_key("a  b ") == "a b"
    assert look_alike("P-007") == look_alike("p7") != look_alike("P-0070")
    assert look_alike("p10") == "p10" and look_alike("000") == "0"
    with pytest.raises(DatasetError, match="record 1: patient nan is no patient"):
        balanced_parts(["a", math.nan, "b"], [[1]] * 3, (0.5, 0.5), 0)


def test_numeric_texts_are_numbers_in_evaluation_too():
    data = content()
    for image, age in zip(data["images"], ("41", "42.0", " "), strict=True):
        image["clinical"] = {"age": age, "sex": "F", "code": "1" if age != "41" else "x"}
    clinical = [image["clinical"] for image in GroundTruth.load(data).images]
    assert [c["age"] for c in clinical] == [41.0, 42.0, None]
    assert [c["code"] for c in clinical] == ["x", "1", "1"]
    assert "41" == data["images"][0]["clinical"]["age"]  # what was given is not changed
