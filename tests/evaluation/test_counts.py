import numpy as np
import pytest
from evaluation_cases import dataset, random_cases, results
from hypothesis import given, settings
from slow_reference import slow_confusion, slow_matches

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import match
from mdf_detectron.evaluation.scoring import confusion_matrix, counts_per_image

A, B = (0, 0, 10, 10), (50, 50, 20, 20)


def loaded(annotations, predictions):
    truth = GroundTruth.load(annotations)
    return truth, Detections.load(predictions, truth)


def test_by_hand():
    """A found; B (class 2) called class 1; an FP on the healthy image; one unsure box that does not count."""
    annotations = dataset([(1, 1, A, 0), (1, 2, B, 0)], names=("effusion", "mass"))
    predictions = results([(1, 1, A, 0.9), (1, 1, B, 0.8), (2, 2, A, 0.7), (1, 2, B, 0.05)])
    truth, found = loaded(annotations, predictions)
    counts = counts_per_image(match(truth, found, thresholds=[0.5]), 0.1)
    assert counts.sum(axis=2).tolist() == [[1, 0], [1, 1], [0, 1]]
    # rows: effusion, mass, background; columns: predicted
    assert confusion_matrix(truth, found, score_threshold=0.1).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert confusion_matrix(truth, found, score_threshold=0.0).tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]


def test_nothing_at_all():
    truth, found = loaded(dataset([]), [])
    assert not counts_per_image(match(truth, found, thresholds=[0.5]), 0.1).any()
    assert not confusion_matrix(truth, found, score_threshold=0.1).any()
    with pytest.raises(ValueError, match=r"no matches at overlap 0.5"):
        counts_per_image(match(truth, found, thresholds=[0.6]), 0.1)
    truth, found = loaded(dataset([(1, 2, A, 0)]), [])
    assert confusion_matrix(truth, found, score_threshold=0.1)[1, 3] == 1


@pytest.mark.parametrize("kind", ["iobb", "iou"])
@given(case=random_cases)
@settings(max_examples=200)
def test_counts_and_confusion_equal_loops(kind, case):
    annotations, predictions = case
    truth, found = loaded(annotations, predictions)
    per_image = counts_per_image(match(truth, found, overlap=kind, thresholds=[0.5], max_dets=4), 0.4)
    assert (per_image >= 0).all()
    for k, category in enumerate(annotations["categories"]):
        outcomes, to_find = slow_matches(annotations, predictions, category["id"], kind, 0.5, 4)
        right = sum(o == "right" and s >= 0.4 for s, o in outcomes)
        wrong = sum(o == "wrong" and s >= 0.4 for s, o in outcomes)
        assert per_image[:, k].sum(axis=1).tolist() == [right, wrong, to_find - right]
    if kind == "iou":
        return
    matrix = confusion_matrix(truth, found, score_threshold=0.3, max_dets=100)
    np.testing.assert_array_equal(matrix, slow_confusion(annotations, predictions, 0.3, kind, 0.5))
    tp, fp, _ = counts_per_image(match(truth, found, overlap=kind, thresholds=[0.5], max_dets=100), 0.3).sum(axis=2)
    assert matrix.diagonal()[:-1].tolist() == tp.tolist()
    assert matrix[:-1].sum() == (~truth.crowd).sum()
    assert matrix[:, :-1].sum() == (tp + fp).sum()
