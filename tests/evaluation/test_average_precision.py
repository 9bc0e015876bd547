import warnings

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from evaluation_cases import dataset, random_case, random_cases, results
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from slow_reference import pycocotools_ap_ar, slow_ap_ar, slow_matches

from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import COCO_THRESHOLDS, match, mean_of_defined
from mdf_detectron.evaluation.metrics import average_precision, precision_recall_curve

SWEEP = np.linspace(0, 1, 21)


def ap_ar(annotations, predictions, weights=None, **options):
    truth = GroundTruth.load(annotations)
    return average_precision(match(truth, Detections.load(predictions, truth), **options), weights)


def test_by_hand():
    """Two boxes; TP, FP, TP: precision 1 up to recall 1/2, then 2/3: (51 × 1 + 50 × 2/3) / 101."""
    truth = dataset([(1, 1, (0, 0, 10, 10), 0), (2, 1, (0, 0, 10, 10), 0)])
    found = results([(1, 1, (0, 0, 10, 10), 0.9), (1, 1, (50, 50, 9, 9), 0.8), (2, 1, (0, 0, 5, 5), 0.7)])
    table = evaluate_coco(truth, found)
    assert table["bbox_iobb"]["AP50-effusion"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert table["bbox_iobb"]["AR50"] == 100
    assert table["bbox"]["AP50-effusion"] == pytest.approx(100 * 51 / 101)  # the 5 × 5 box has IoU 0.25
    assert table["bbox"]["AR50"] == table["bbox"]["AR"] == 50


def test_healthy_image_costs_only_by_its_false_positive():
    truth = dataset([(1, 1, (0, 0, 10, 10), 0)], num_images=3)
    right = (1, 1, (0, 0, 10, 10), 0.5)
    assert evaluate_coco(truth, results([right]))["bbox_iobb"]["AP"] == pytest.approx(100)
    sure_on_healthy = results([right, (2, 1, (0, 0, 10, 10), 0.9)])
    assert evaluate_coco(truth, sure_on_healthy)["bbox_iobb"]["AP"] == pytest.approx(50)


def test_undefined_cases():
    truth = dataset([(1, 1, (0, 0, 10, 10), 0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = evaluate_coco(truth, [])
        healthy = evaluate_coco(dataset([]), results([(1, 1, (0, 0, 9, 9), 0.5)]))
        no_image = evaluate_coco(dataset([], num_images=0), [])
    for table in nothing.values():
        assert table["AP"] == table["AR50"] == table["AP50-effusion"] == 0
        assert np.isnan(table["AP50-mass"]) and np.isnan(table["AR-never seen"])
    assert np.isnan(healthy["bbox"]["AP"]) and np.isnan(no_image["bbox_iobb"]["AR"])
    assert list(nothing) == ["bbox_iobb", "bbox"]


def test_class_without_ground_truth_is_left_out_of_the_mean():
    truth = dataset([(1, 1, (0, 0, 10, 10), 0)])
    found = results([(1, 1, (0, 0, 10, 10), 0.5), (1, 3, (0, 0, 10, 10), 0.9)])
    assert evaluate_coco(truth, found)["bbox"]["AP50"] == pytest.approx(100)
    assert mean_of_defined(np.array([[1.0, np.nan, 0.0], [np.nan] * 3]), -1)[0] == 0.5


@pytest.mark.parametrize("kind", ["iobb", "iou"])
@given(case=random_cases)
@settings(max_examples=200)
def test_equals_loops(kind, case):
    annotations, predictions = case
    thresholds = [0.0, 0.3, 0.5, 0.75, 1.0]
    ap, ar = ap_ar(annotations, predictions, overlap=kind, thresholds=thresholds, max_dets=3)
    for t, threshold in enumerate(thresholds):
        for k, category in enumerate(annotations["categories"]):
            slow = slow_ap_ar(*slow_matches(annotations, predictions, category["id"], kind, threshold, 3))
            np.testing.assert_allclose([ap[t, k], ar[t, k]], slow, atol=1e-9)


@pytest.mark.parametrize("kind", ["iobb", "iou"])
@given(case=random_cases, options=st.sampled_from([{}, {"area": (0.0, 500.0)}, {"max_dets": 1}, {"max_dets": 100}]),
       sweep=st.booleans())  # fmt: skip
@settings(max_examples=300)
def test_equals_pycocotools(kind, case, options, sweep):
    assume(case[1])  # pycocotools cannot read an empty list of results
    thresholds = SWEEP if sweep else COCO_THRESHOLDS
    ap, ar = ap_ar(*case, overlap=kind, thresholds=thresholds, **options)
    expected = pycocotools_ap_ar(
        *case, kind, thresholds, options.get("max_dets", 10), area=options.get("area", (0, 1e10))
    )
    np.testing.assert_allclose(ap, expected[0], atol=1e-9)
    np.testing.assert_allclose(ar, expected[1], atol=1e-9)


def with_masks(annotations, predictions, seed):
    """The same boxes, with masks that fill them in part: polygons on one side, run lengths on the other."""
    rng = np.random.default_rng(seed)
    for region in annotations["annotations"]:
        x, y, w, h = region["bbox"]
        region["segmentation"] = [[x, y, x + w, y, x + w / 2, y + h]]
    for prediction in predictions:
        x, y, w, h = prediction["bbox"]
        canvas = np.zeros((100, 100), dtype=np.uint8, order="F")
        canvas[y : y + h, x : x + max(1, int(w * rng.uniform(0.3, 1)))] = 1
        prediction["segmentation"] = mask_utils.encode(canvas)
    return annotations, predictions


@pytest.mark.parametrize("kind", ["iobb", "iou"])
def test_masks_equal_pycocotools(kind):
    for seed in range(40):
        annotations, predictions = with_masks(*random_case(seed, num_images=6, crowds=False), seed)
        ap, ar = ap_ar(annotations, predictions, overlap=kind, iou_type="segm")
        found = [{k: v for k, v in p.items() if k != "bbox"} for p in predictions]
        expected = pycocotools_ap_ar(annotations, found, kind, COCO_THRESHOLDS, 10, "segm")
        np.testing.assert_allclose(ap, expected[0], atol=1e-9)
        np.testing.assert_allclose(ar, expected[1], atol=1e-9)
        assert list(evaluate_coco(annotations, predictions)) == ["bbox_iobb", "bbox", "segm_iobb", "segm"]


def repeated(annotations, predictions, times):
    """Every image as often as ``times`` says, its copies next to each other."""
    images, gt_boxes, found = [], [], []
    for image, count in zip(annotations["images"], times, strict=True):
        for copy in range(count):
            new = 1000 * image["id"] + copy
            images.append({**image, "id": new})
            gt_boxes += [{**a, "image_id": new} for a in annotations["annotations"] if a["image_id"] == image["id"]]
            found += [{**p, "image_id": new} for p in predictions if p["image_id"] == image["id"]]
    return {**annotations, "images": images, "annotations": gt_boxes}, found


def test_weights_equal_repeated_images():
    rng = np.random.default_rng(0)
    for seed in range(60):
        annotations, predictions = random_case(seed, num_images=6)
        for i, prediction in enumerate(predictions):  # the order of equal scores within an image is arbitrary
            prediction["score"] += 1e-6 * i
        times = rng.integers(0, 4, (2, 6))
        ap, ar = ap_ar(annotations, predictions, times, thresholds=[0.3, 0.5, 0.8])
        for b in range(2):
            expected = ap_ar(*repeated(annotations, predictions, times[b]), thresholds=[0.3, 0.5, 0.8])
            np.testing.assert_allclose(ap[b], expected[0], atol=1e-9)
            np.testing.assert_allclose(ar[b], expected[1], atol=1e-9)


def test_precision_recall_curve():
    truth = GroundTruth.load(dataset([(1, 1, (0, 0, 10, 10), 0), (2, 1, (0, 0, 10, 10), 0)]))
    found = results([(1, 1, (0, 0, 10, 10), 0.9), (1, 1, (50, 50, 9, 9), 0.8), (2, 1, (0, 0, 5, 5), 0.7)])
    recall, precision, score = precision_recall_curve(match(truth, Detections.load(found, truth)), 0, 0.5)
    assert recall.tolist() == [0.5, 0.5, 1.0] and score.tolist() == [0.9, 0.8, 0.7]
    np.testing.assert_allclose(precision, [1, 0.5, 2 / 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"overlap": "dice"}, "dice"), ({"area": "huge"}, "huge"), ({"iou_type": "keypoints"}, "keypoints")],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ap_ar(dataset([]), [], **options)
    with pytest.raises(ValueError, match="masks"):
        ap_ar(*random_case(1), iou_type="segm")
