"""What bad annotations and predictions get: one clear message that names the entry."""

import json
import re

import numpy as np
import pytest
from evaluation_cases import dataset, random_case, results

from mdf_detectron.errors import UserError
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth, unusual
from mdf_detectron.evaluation.subgroups import groups_of

BOX = (0, 0, 10, 10)
TRUTH = dataset([(1, 1, BOX, 0)])
GOOD = results([(1, 1, BOX, 0.5)])[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, r"predictions\[1\]: image_id 77 is not among the images of the annotations"),
        ({"category_id": 9}, r"predictions\[1\]: category_id 9 is not among the categories of the annotations"),
        ({"category_id": [1]}, r"predictions\[1\]: category_id \[1\]"),
        ({"score": float("nan")}, r"predictions\[1\] \(image_id 1\): score nan"),
        ({"score": 10**400}, "score 10+.* is not a finite number"),
        ({"score": "high"}, r"predictions\[1\] \(image_id 1\): score 'high'"),
        ({"score": None}, r"predictions\[1\] \(image_id 1\): score None"),
        ({"bbox": [0, 0, -1, 5]}, r"predictions\[1\] \(image_id 1\): bbox .* negative size"),
        ({"bbox": [0, 0, float("inf"), 5]}, r"predictions\[1\] .* not finite"),
        ({"bbox": [0, 0, 5]}, r"predictions\[1\] .* is not \[x, y, width, height\]"),
        ({"bbox": [0, 0, "w", 5]}, r"predictions\[1\] .* not a number"),
    ],
)
def test_bad_prediction(change, message):
    with pytest.raises(UserError, match=message):
        evaluate_coco(TRUTH, [GOOD, {**GOOD, **change}])


@pytest.mark.parametrize(
    ("predictions", "message"),
    [([GOOD, {k: v for k, v in GOOD.items() if k != "score"}], r"predictions\[1\]: has no score"),
     ([GOOD, {k: v for k, v in GOOD.items() if k != "bbox"}], r"predictions\[1\]: has no bbox"),
     ([GOOD, "box"], r"predictions\[1\]: expected an object"),
     ({"results": []}, "expected a list"),
     ([{**GOOD, "image_id": i} for i in (501, 502)],
      r"predictions\[0\]: image_id 501 is not among the images .*so for every entry: .* another dataset")],
)  # fmt: skip
def test_not_results_of_this_dataset(predictions, message):
    with pytest.raises(UserError, match=message):
        evaluate_coco(TRUTH, predictions)


@pytest.mark.parametrize(
    ("part", "entries", "message"),
    [("images", [{"id": 1}, {"id": 1}], r"images\[1\] \(id 1\): two images have the id 1"),
     ("images", [{"name": "x"}], r"images\[0\] \(name 'x'\): no id"),
     ("images", None, "no 'images' list"),
     ("categories", [{"id": 1}, {"id": 1}], r"categories\[1\] .*two categories have the id 1"),
     ("annotations", [{"image_id": 9, "category_id": 1, "bbox": BOX}],
      r"annotations\[0\] \(image_id 9\): image_id 9 is not among the images"),
     ("annotations", [{"image_id": 1, "category_id": 9, "bbox": BOX}],
      r"annotations\[0\] \(image_id 1\): category_id 9 is not among the categories"),
     ("annotations", [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, -1]}], r"annotations\[0\] .*negative"),
     ("annotations", [{"image_id": 1}], r"annotations\[0\] .*: no category_id, bbox; every annotation needs")],
)  # fmt: skip
def test_bad_annotations(part, entries, message):
    with pytest.raises(UserError, match=message):
        evaluate_coco({**TRUTH, part: entries}, [])


def test_files(tmp_path):
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(TRUTH))
    for text, message in (("", "the file is empty"), ("{not json", "not JSON"), ("[3]", r"found.json\[0\]")):
        found.write_text(text)
        with pytest.raises(UserError, match=message):
            evaluate_coco(truth, found)
    with pytest.raises(UserError, match="absent.json: cannot be read"):
        evaluate_coco(tmp_path / "absent.json", found)
    found.write_bytes(b"\x80\x02\xff")
    with pytest.raises(UserError, match="found.json: not a text file"):
        evaluate_coco(truth, found)
    truth.write_text("[]")
    with pytest.raises(UserError, match="truth.json: no 'images' list; expected COCO detection JSON"):
        evaluate_coco(truth, found)


def test_empty_list_is_valid(tmp_path):
    found = tmp_path / "found.json"
    found.write_text("[]")
    assert evaluate_coco(TRUTH, found)["bbox_iobb"]["AP"] == 0


def test_string_ids():
    truth = json.loads(
        json.dumps(TRUTH)
        .replace('"id": 1', '"id": "a"')
        .replace('"id": 2', '"id": "b"')
        .replace('"image_id": 1', '"image_id": "a"')
    )
    for number, category in enumerate(truth["categories"], start=1):
        category["id"] = number
    assert evaluate_coco(truth, [{**GOOD, "image_id": "a"}])["bbox"]["AP"] == pytest.approx(100)


def test_entries_looked_at_one_by_one_are_read_as_the_others():
    """Numpy scores are unusual, so every entry is checked; what is read is the same."""
    annotations, predictions = random_case(2)
    truth = GroundTruth.load(annotations)
    plain = Detections.load(predictions, truth)
    checked = Detections.load([{**p, "score": np.float32(p["score"])} for p in predictions], truth)
    for name in ("image", "category", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(checked, name))
    assert len(plain) > 5


SQUARE = [[0, 0, 10, 0, 10, 10, 0, 10]]
RLE = {"size": [100, 100], "counts": [0, *[10, 90] * 9, 10, 9090]}


@pytest.mark.parametrize(
    ("truth_mask", "mask", "message"),
    [(SQUARE, {"size": [100, 100], "counts": "garbage"}, r"predictions\[0\] .*: segmentation: its counts"),
     (SQUARE, {"size": [50, 50], "counts": [2500]}, "its size is 50 × 50 .*, its image's 100 × 100"),
     (SQUARE, SQUARE[0], r"predictions\[0\] .* is a flat list of numbers"),
     (SQUARE[0], SQUARE, r"annotations\[0\] .* is a flat list of numbers"),
     ({"size": [100, 100], "counts": "?"}, SQUARE, r"annotations\[0\] .* no run-length encoding")],
)  # fmt: skip
def test_bad_masks(truth_mask, mask, message):
    def score(truth_mask, mask):
        truth = {**TRUTH, "annotations": [{**TRUTH["annotations"][0], "segmentation": truth_mask}]}
        return evaluate_coco(truth, [{**GOOD, "segmentation": mask}], tasks=("segm",))

    assert score(SQUARE, RLE)["segm"]["AP"] > 0 and score(RLE, SQUARE)["segm"]["AP"] > 0
    with pytest.raises(UserError, match=message):
        score(truth_mask, mask)


def test_masks_need_the_sizes_of_their_images():
    truth = {**TRUTH, "images": [{"id": 1}, {"id": 2}]}
    assert evaluate_coco(truth, [GOOD])["bbox"]["AP"] == pytest.approx(100)
    with pytest.raises(UserError, match=r"predictions\[0\] .*has a mask, but its image has no width and height"):
        evaluate_coco(truth, [{**GOOD, "segmentation": RLE}])


@pytest.mark.parametrize("mask", [0.0, [], None])
def test_a_prediction_with_neither_box_nor_mask(mask):
    with pytest.raises(UserError, match="has no bbox"):
        evaluate_coco(TRUTH, [{**{k: v for k, v in GOOD.items() if k != "bbox"}, "segmentation": mask}])


def test_text_against_number_is_said():
    with pytest.raises(
        UserError, match="image_id '1' is not among the images: it is text, their ids are numbers"
    ) as error:
        evaluate_coco(TRUTH, [{**GOOD, "image_id": "1"}])
    assert "another dataset" not in str(error.value)
    with pytest.raises(UserError, match=r"image_id True is not among the images"):
        evaluate_coco(TRUTH, [{**GOOD, "image_id": True}])


def test_a_byte_order_mark_and_texts_as_numbers(tmp_path):
    (tmp_path / "found.json").write_text(json.dumps([GOOD]), encoding="utf-8-sig")
    assert evaluate_coco(TRUTH, tmp_path / "found.json")["bbox"]["AP"] == pytest.approx(100)
    for ages in ([30, 50], ["30", "50.0"]):
        images = [{**i, "clinical": {"age": a}} for i, a in zip(TRUTH["images"], ages, strict=True)]
        groups = groups_of(GroundTruth.load({**TRUTH, "images": images}), "age")
        assert {name: members.tolist() for name, members in groups.items()} == {
            "30": [True, False],
            "50": [False, True],
        }


FOUND = [
    (image, category, (20, 30, 8, 6), (10 * image + category) / 100) for image in range(1, 5) for category in (1, 2)
]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found, []),
        (lambda found: [(*one[:3], 0.7) for one in found], ["all scores are 0.7"]),
        (lambda found: [(*one[:3], 100 * one[3]) for one in found], [r"8 scores are not within 0 to 1 \(11 to 42\)"]),
        (lambda found: found + found[2:5], [r"3 of 11 detections repeat another"]),
        (lambda found: [(i, c, (0.2, 0.5, 0.1, 0.1), s) for i, c, _, s in found], ["8 boxes lie within the first"]),
        (lambda found: [(i, c, (0.6, 0.5, 0.103 * i, 0.1), s) for i, c, _, s in found], ["6 boxes lie within"]),
        (lambda found: [*found[1:], (1, 1, (60, 10, 30, 5), 0.5)], ["1 of 8 boxes reach out of their image by more"]),
        (lambda found: [*found[1:], (1, 1, (60, 10, 22, 5), 0.5)], []),  # 2 pixels of 80
        (lambda found: found[:6], ["1 of 4 images have no detection, 1 of them with annotations"]),
        (lambda found: [one for one in found if one[1] == 1], [r"no detection of \['dark'\], which"]),
        (lambda found: [], []),
    ],
)
def test_what_is_legal_but_makes_metrics_mean_little_is_said(change, said):
    boxes = [(image, category, (20, 30, 9, 9), 0) for image in range(1, 5) for category in (1, 2)]
    truth = dataset(boxes, 4, ("bright", "dark"), (64, 80))
    ground_truth = GroundTruth.load(truth)
    notes = unusual(ground_truth, Detections.load(results(change(FOUND)), ground_truth))
    assert len(notes) == len(said) and all(re.match(text, note) for text, note in zip(said, notes, strict=True)), notes
