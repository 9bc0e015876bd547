import numpy as np
import pytest
from evaluation_cases import dataset, random_case

from mdf_detectron.data.record_changes import clinical_column_names
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.estimates import Estimator, concatenate_folds
from mdf_detectron.evaluation.matching import match
from mdf_detectron.evaluation.subgroups import RECORD, groups_of, list_subgroups
from mdf_detectron.evaluation.summary import metric_statistic

RECORDS = [
    {"age": 39, "gender": "F", "acuity": 2, "heart_rate": 60},
    {"age": 40, "gender": "M", "acuity": 3, "heart_rate": 70.5},
    {"age": 80, "gender": None, "acuity": 2, "heart_rate": None},
    {"age": None, "gender": "", "acuity": None, "heart_rate": float("nan")},
]


def truth_of(records, gt_boxes=()):
    annotations = dataset(list(gt_boxes), num_images=len(records))
    for image, record in zip(annotations["images"], records, strict=True):
        image["clinical"] = record
    return GroundTruth.load(annotations)


def as_lists(groups):
    return {name: np.flatnonzero(members).tolist() for name, members in groups.items()}


def test_groups_by_hand():
    truth = truth_of(RECORDS)
    assert clinical_column_names(truth.images) == ["age", "gender", "acuity", "heart_rate"]
    assert as_lists(groups_of(truth, "gender")) == {"F": [0], "M": [1], "missing": [2, 3]}
    assert as_lists(groups_of(truth, "acuity")) == {"2": [0, 2], "3": [1], "missing": [3]}
    assert as_lists(groups_of(truth, "age")) == {"39": [0], "40": [1], "80": [2], "missing": [3]}
    assert as_lists(groups_of(truth, RECORD)) == {"present": [0, 1, 2], "missing": [3]}
    assert as_lists(groups_of(truth_of([None, {"age": 1}]), RECORD)) == {"present": [1], "missing": [0]}


def test_many_values_make_bands():
    truth = truth_of([{"age": a, "heart_rate": 50 + a} for a in range(30, 90, 5)])
    assert as_lists(groups_of(truth, "age")) == {
        "< 40": [0, 1], "40 – < 65": [2, 3, 4, 5, 6], "65 – < 80": [7, 8, 9], "≥ 80": [10, 11],
    }  # fmt: skip
    thirds = groups_of(truth, "heart_rate")
    assert [int(members.sum()) for members in thirds.values()] == [4, 4, 4]


def test_every_image_is_in_one_group():
    truth = truth_of(RECORDS)
    for column in [*clinical_column_names(truth.images), RECORD]:
        assert (sum(m.astype(int) for m in groups_of(truth, column).values()) == 1).all()


def test_unknown_column():
    with pytest.raises(ValueError, match="'weight'"):
        groups_of(truth_of(RECORDS), "weight")


def test_values_are_those_of_the_part():
    annotations, predictions = random_case(11, num_images=10)
    for i, image in enumerate(annotations["images"]):
        image["clinical"] = {"gender": "FM"[i % 2]}
        image["patient_id"] = i // 2
    truth = GroundTruth.load(annotations)
    matches = match(truth, Detections.load(predictions, truth), overlap="iou")
    images = concatenate_folds({0: truth})
    found = list_subgroups(images)
    estimator, cells = Estimator(images, 20), {0: [metric_statistic(matches)]}
    assert [(r.column, r.group, r.images, r.patients) for r in found] == [
        ("gender", "F", 5, 5),
        ("gender", "M", 5, 5),
        (RECORD, "present", 10, 5),
    ]
    for result, ids in zip(found, ([1, 3, 5, 7, 9], [2, 4, 6, 8, 10], range(1, 11)), strict=True):
        part = {**annotations, **{key: [one for one in annotations[key] if one[of] in ids]
                                  for key, of in (("images", "id"), ("annotations", "image_id"))}}  # fmt: skip
        expected = evaluate_coco(part, [one for one in predictions if one["image_id"] in ids])["bbox"]
        rows = estimator.rows(list(expected), cells, 5, members=result.members)
        values = [np.nan if row["value"] is None else row["value"] for row in rows.values()]
        np.testing.assert_allclose(values, list(expected.values()), atol=1e-9)
        defined = [row for row in rows.values() if row["low"] is not None]
        assert defined and all(row["low"] <= row["high"] for row in defined)
        gt_boxes = [a for a in annotations["annotations"] if a["image_id"] in ids and not a["iscrowd"]]
        assert result.boxes == len(gt_boxes)
        assert "5 patients" in result.warning and "small group" in result.warning


def test_group_without_boxes_says_so():
    truth = truth_of([{"gender": "F"}, {"gender": "M"}] * 5, [(1, 1, (0, 0, 9, 9), 0)])
    women, men = list_subgroups(concatenate_folds({0: truth}), ["gender"])
    assert women.boxes == 1 and men.boxes == 0 and "nothing to find" in men.warning


def test_a_group_of_few_patients_is_left_out():
    """Four patients of 20 to 23 and five of 70: the row of an age would tell about a single patient."""
    ages = [{"age": 20.0 + n} for n in range(4)] + [{"age": 70.0}] * 5
    found = list_subgroups(concatenate_folds({0: truth_of(ages, [(1, 1, (0, 0, 9, 9), 0)])}), ["age"])
    assert [(group.group, group.patients) for group in found] == [("70", 5)]
