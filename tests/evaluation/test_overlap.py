import numpy as np
import pycocotools.mask as mask_utils
import pytest
from slow_reference import slow_overlap

from mdf_detectron.evaluation.matching import overlap_matrix, paired_box_overlaps

DETECTION = np.array([[0.0, 0.0, 10.0, 10.0]])
REGION = np.array([[5.0, 0.0, 20.0, 10.0]])


def test_by_hand():
    # 5 × 10 of the detection's 100 pixels lie in the region of 200
    assert overlap_matrix(DETECTION, REGION, "iobb").tolist() == [[0.5]]
    assert overlap_matrix(DETECTION, REGION, "iou").tolist() == [[50 / 250]]
    assert overlap_matrix(DETECTION, REGION, "iou", crowd=[True]).tolist() == [[0.5]]


def test_a_tiny_box_inside_a_ground_truth_box_has_iobb_one():
    tiny = np.array([[1.0, 1.0, 1.0, 1.0]])
    assert overlap_matrix(tiny, DETECTION, "iobb")[0, 0] == 1.0
    assert overlap_matrix(tiny, DETECTION, "iou")[0, 0] == 0.01


@pytest.mark.parametrize("overlap", ["iobb", "iou"])
def test_pairs_equal_matrix_and_loops(overlap):
    rng = np.random.default_rng(0)
    detections = np.c_[rng.uniform(0, 50, (40, 2)), rng.uniform(0, 40, (40, 2))]
    boxes = np.c_[rng.uniform(0, 50, (30, 2)), rng.uniform(0, 40, (30, 2))]
    crowd = rng.random(30) < 0.3
    matrix = overlap_matrix(detections, boxes, overlap, crowd)
    rows, columns = np.indices(matrix.shape)
    pairs = paired_box_overlaps(detections[rows.ravel()], boxes[columns.ravel()], overlap, crowd[columns.ravel()])
    assert (pairs.reshape(matrix.shape) == matrix).all()
    for d, detection in enumerate(detections):
        for g, region in enumerate(boxes):
            kind = "iobb" if crowd[g] else overlap
            assert matrix[d, g] == pytest.approx(slow_overlap(detection, region, kind), abs=1e-12)


def test_masks():
    canvas = np.zeros((2, 20, 20), dtype=np.uint8, order="F")
    canvas[0, :, :10] = 1
    canvas[1, :10, 5:15] = 1
    left, corner = (mask_utils.encode(np.asfortranarray(c)) for c in canvas)
    assert overlap_matrix([corner], [left], "iobb")[0, 0] == 50 / 100
    assert overlap_matrix([left], [corner], "iobb")[0, 0] == 50 / 200
    assert overlap_matrix([left], [corner], "iou")[0, 0] == 50 / 250


def test_nothing_and_no_area():
    assert overlap_matrix(np.zeros((0, 4)), REGION).shape == (0, 1)
    flat = np.array([[1.0, 1.0, 0.0, 5.0]])
    assert overlap_matrix(flat, REGION, "iobb")[0, 0] == 0.0
    assert paired_box_overlaps(flat, REGION, "iou")[0] == 0.0
    assert paired_box_overlaps(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)
    empty = mask_utils.encode(np.zeros((5, 5), dtype=np.uint8, order="F"))
    assert overlap_matrix([empty], [empty], "iobb")[0, 0] == 0.0


def test_unknown_overlap():
    with pytest.raises(ValueError, match="'dice'"):
        overlap_matrix(DETECTION, REGION, "dice")
