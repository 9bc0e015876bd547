"""How many lesions are found, missed and made up at a score threshold, and which class is taken for which.

Shapes: K classes, D detections, G ground-truth regions.
"""

from __future__ import annotations

import numpy as np

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import MAX_DETS, Matches, greedy, match, paired_box_overlaps, same_group_pairs

BACKGROUND = "background"


def detection_counts(matches: Matches, score_threshold: float, overlap_threshold: float = 0.5) -> dict[str, np.ndarray]:
    """True positives, false positives and misses of each class (the counts of the paper's figure 2b).

    Args:
        matches: matched at ``overlap_threshold``, among others.
        score_threshold: a detection counts from this score on (score ≥ threshold).

    Returns:
        ``{"tp", "fp", "fn"}``, (K,) int64 each.  tp + fn is the number of regions to be found; detections on crowd
        regions count as neither.
    """
    tp, fp, fn = counts_per_image(matches, score_threshold, overlap_threshold).sum(axis=2)
    return {"tp": tp, "fp": fp, "fn": fn}


def counts_per_image(matches: Matches, score_threshold: float, overlap_threshold: float = 0.5) -> np.ndarray:
    """(3, K, I) int64: true positives, false positives and misses of each class on each image."""
    row = matches.threshold_index(overlap_threshold)
    sure = matches.scores >= score_threshold
    right = matches.right[row] & sure
    wrong = (matches.found[row] < 0) & ~matches.ignored[row] & sure
    wanted = ~matches.gt_ignored
    counts = np.zeros((3, len(matches.class_names), matches.num_images), dtype=np.int64)
    np.add.at(counts[0], (matches.category[right], matches.image[right]), 1)
    np.add.at(counts[1], (matches.category[wrong], matches.image[wrong]), 1)
    np.add.at(counts[2], (matches.gt_category[wanted], matches.gt_image[wanted]), 1)
    counts[2] -= counts[0]
    return counts


def confusion_matrix(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    score_threshold: float,
    overlap: str = "iobb",
    overlap_threshold: float = 0.5,
    max_dets: int = MAX_DETS,
) -> np.ndarray:
    """Which class was taken for which.

    Two abnormalities often share a place on a chest film, so pairs of the same class are matched first (the diagonal
    is :func:`detection_counts`' ``tp``); what is left over on both sides is then matched across classes, by falling
    score.  What still stands alone is paired with the background.

    Returns:
        (K + 1, K + 1) int64; rows are the truth, columns the predictions, the last of each is the background.
        Each region and each detection above ``score_threshold`` counts once; the lower right cell is 0.
        Crowd regions, and detections on them, are left out.
    """
    matches = match(ground_truth, detections, overlap=overlap, thresholds=[overlap_threshold], max_dets=max_dets)
    background = ground_truth.num_classes
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    sure = matches.scores >= score_threshold
    right = matches.right[0] & sure
    np.add.at(matrix, (matches.category[right], matches.category[right]), 1)

    left_det = matches.source[sure & (matches.found[0] < 0) & ~matches.ignored[0]]
    left_gt = ~matches.gt_ignored
    left_gt[matches.found[0][right]] = False
    left_gt = np.flatnonzero(left_gt)
    taken = _match_across_classes(ground_truth, detections, left_det, left_gt, overlap, overlap_threshold)
    truth = np.append(ground_truth.category[left_gt], background)[taken]
    np.add.at(matrix, (truth, detections.category[left_det]), 1)
    missed = np.setdiff1d(np.arange(len(left_gt)), taken)
    np.add.at(matrix, (ground_truth.category[left_gt[missed]], background), 1)
    return matrix


def _match_across_classes(ground_truth, detections, left_det, left_gt, overlap, overlap_threshold) -> np.ndarray:
    """For each left-over detection the position in ``left_gt`` of the region it takes, or -1."""
    order = np.lexsort((-detections.scores[left_det], detections.image[left_det]))
    image = detections.image[left_det][order]
    rank = np.arange(len(order)) - np.searchsorted(image, image, side="left")
    pair_det, pair_gt = same_group_pairs(image, ground_truth.image[left_gt])
    overlaps = paired_box_overlaps(
        detections.boxes[left_det][order][pair_det], ground_truth.boxes[left_gt][pair_gt], overlap
    )
    nothing_special = np.zeros(len(left_gt), dtype=bool)
    found = greedy(pair_det, pair_gt, overlaps, rank, np.array([overlap_threshold]), nothing_special, nothing_special)
    taken = np.empty(len(order), dtype=np.int64)
    taken[order] = found[0]
    return taken
