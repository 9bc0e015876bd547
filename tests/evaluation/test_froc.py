import numpy as np
import pytest
from evaluation_cases import dataset, random_case, random_cases, results
from hypothesis import given, settings
from slow_reference import slow_froc_points, slow_overlap

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.froc import FALSE_POSITIVE_RATES, froc_curve, froc_detections, sensitivity_at

A = (0, 0, 10, 10)


def froc_of(annotations, predictions, **options):
    truth = GroundTruth.load(annotations)
    return froc_detections(truth, Detections.load(predictions, truth), **options)


def slow_near(criterion):
    def near(box, region, crowd):
        if criterion == "center":
            x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
            inside = region[0] <= x <= region[0] + region[2] and region[1] <= y <= region[1] + region[3]
            return inside, 1.0
        value = slow_overlap(box, region, "iobb" if crowd else criterion)
        return value >= 0.5, value

    return near


def test_by_hand():
    """Two boxes on four images, two healthy: TP at .9, FP at .8, TP at .7, a second detection of a box at .6."""
    annotations = dataset([(1, 1, A, 0), (2, 1, A, 0)], num_images=4)
    predictions = results([(1, 1, A, 0.9), (3, 1, A, 0.8), (2, 1, A, 0.7), (1, 1, (0, 0, 9, 9), 0.6)])
    found = froc_of(annotations, predictions)
    false_positives, sensitivity, score = froc_curve(found)
    assert false_positives.tolist() == [0, 0, 0.25, 0.25]
    assert sensitivity.tolist() == [0, 0.5, 0.5, 1.0]
    assert score.tolist() == [np.inf, 0.9, 0.8, 0.7]
    assert sensitivity_at(found).tolist() == [0.5, 1, 1, 1, 1, 1, 1]
    assert np.isnan(sensitivity_at(found, class_index=1)).all()


def test_center_in_box():
    annotations = dataset([(1, 1, A, 0)])
    inside = results([(1, 1, (4, 4, 12, 12), 0.5)])  # center at 10, 10: on the corner; IoBB 36/144
    assert sensitivity_at(froc_of(annotations, inside, criterion="center"))[0] == 1
    assert sensitivity_at(froc_of(annotations, inside, criterion="iobb"))[-1] == 0


def test_equal_scores_enter_together():
    annotations = dataset([(1, 1, A, 0)])
    tied = results([(1, 1, A, 0.5), (2, 1, A, 0.5)])
    assert froc_curve(froc_of(annotations, tied))[1].tolist() == [0, 1]
    assert sensitivity_at(froc_of(annotations, tied))[1:3].tolist() == [0, 1]  # at 0.25 and 0.5


def test_no_marks():
    assert (sensitivity_at(froc_of(dataset([(1, 1, A, 0)]), [])) == 0).all()
    assert np.isnan(sensitivity_at(froc_of(dataset([]), []))).all()


def test_unknown_criterion():
    with pytest.raises(ValueError, match="'nearby'"):
        froc_of(dataset([]), [], criterion="nearby")


@pytest.mark.parametrize("criterion", ["iobb", "iou", "center"])
@given(case=random_cases)
@settings(max_examples=200)
def test_equals_counting_anew_at_every_score(criterion, case):
    annotations, predictions = case
    found = froc_of(annotations, predictions, criterion=criterion)
    for class_index in (None, 0, 1, 2):
        class_ids = [1, 2, 3] if class_index is None else [class_index + 1]
        slow = slow_froc_points(annotations, predictions, class_ids, slow_near(criterion))
        false_positives, sensitivity, scores = froc_curve(found, class_index)
        for x, y, s in zip(false_positives[1:], sensitivity[1:], scores[1:], strict=True):
            np.testing.assert_allclose((x, y), slow[s], atol=1e-9)
        gt_boxes = [a for a in annotations["annotations"] if not a["iscrowd"] and a["category_id"] in class_ids]
        expected = [
            max((y for x, y in slow.values() if x <= rate), default=0.0) if gt_boxes else np.nan
            for rate in FALSE_POSITIVE_RATES
        ]
        np.testing.assert_allclose(sensitivity_at(found, class_index=class_index), expected, atol=1e-9)


def test_weights_equal_repeated_images():
    rng = np.random.default_rng(1)
    for seed in range(30):
        annotations, predictions = random_case(seed, num_images=5)
        times = rng.integers(0, 3, (2, 5))
        weighted = sensitivity_at(froc_of(annotations, predictions), weights=times)
        for b in range(2):
            again = [(i["id"], 1000 * i["id"] + c) for i, n in zip(annotations["images"], times[b], strict=True)
                     for c in range(n)]  # fmt: skip
            if not again:
                continue
            repeated = {
                **annotations,
                "images": [{"id": new} for _, new in again],
                "annotations": [{**a, "image_id": n} for o, n in again for a in annotations["annotations"]
                                if a["image_id"] == o],
            }  # fmt: skip
            found = [{**p, "image_id": n} for o, n in again for p in predictions if p["image_id"] == o]
            if found or not predictions:
                np.testing.assert_allclose(weighted[b], sensitivity_at(froc_of(repeated, found)), atol=1e-9)
