"""What the record alone tells: AUC against all pairs, and leaks that were put into the data."""

from __future__ import annotations

import numpy as np

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.record_alone import auc, classes_present, image_scores, record_alone, record_scores

SCHEMA = ClinicalSchema(
    (ClinicalColumn("age", "numeric"), ClinicalColumn("score", "numeric"), ClinicalColumn("never", "numeric"),
     ClinicalColumn("sex", "categorical", vocabulary=("F", "M")),
     ClinicalColumn("ward", "categorical", vocabulary=("A", "B", "C", "unused")))
)  # fmt: skip


def made(count=240, seed=0, leaks=False):
    """Two images a patient; age tells of "mass", nothing of "nodule"; a leak adds a score and missing wards."""
    rng, images, boxes = np.random.default_rng(seed), [], []
    for n in range(count):
        age, ward = float(rng.normal(60, 10)), "ABC"[rng.integers(3)]
        mass, nodule = rng.random() < (0.75 if age > 60 else 0.25), rng.random() < 0.4
        clinical = {
            "age": None if rng.random() < 0.2 else age,
            "score": float(rng.normal()),
            "sex": "FM"[rng.integers(2)],
            "ward": ward,
        }
        if leaks:
            clinical["score"] += 8 * mass
            clinical["ward"] = ward if rng.random() < (0.2 if nodule else 0.7) else None
        images.append({"id": n, "patient_id": str(n // 2), "width": 9, "height": 9, "clinical": clinical})
        boxes += [{"image_id": n, "category_id": k, "bbox": [0, 0, 4, 4]} for k, there in ((1, mass), (2, nodule))
                  if there]  # fmt: skip
    categories = [{"id": 1, "name": "mass"}, {"id": 2, "name": "nodule"}]
    return GroundTruth.load({"images": images, "annotations": boxes, "categories": categories})


def slow_auc(scores, present, weights, fold):
    """Share of the pairs within a fold, one image with and one without, that are in the right order."""
    right = pairs = 0.0
    for i in np.flatnonzero(present):
        for j in np.flatnonzero(~present):
            if fold[i] == fold[j]:
                pairs += weights[i] * weights[j]
                right += weights[i] * weights[j] * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
    return right / pairs if pairs else np.nan


def test_auc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(1)
    scores, present = rng.integers(0, 6, (40, 3)) / 5, rng.random((40, 3)) < (0.5, 0.2, 0.0)
    weights, fold = rng.integers(0, 4, (5, 40)).astype(float), rng.integers(0, 3, 40)
    for folds in (fold, np.zeros(40)):
        found = auc(scores, present, weights, folds)
        for b in range(5):
            slow = [slow_auc(scores[:, k], present[:, k], weights[b], folds) for k in range(3)]
            np.testing.assert_allclose(found[b], slow)
    assert np.isnan(found[:, 2]).all()


def test_what_tells_is_told_and_what_does_not_is_chance():
    found = record_alone(made(), SCHEMA, 100)
    assert found.warnings == [] and found.images.sum() == len(made().image)
    for kind in ("record", "trees"):
        assert found.rows[kind]["mass"]["low"] > 0.55, kind
        assert found.rows[kind]["nodule"]["low"] < 0.53 < found.rows[kind]["mass"]["high"] - 0.1, kind
    assert found.rows["missing"]["mass"]["low"] < 0.53


def test_leaks_are_named():
    found = record_alone(made(leaks=True), SCHEMA, 100)
    assert [one[:2] for one in found.telling] == [("score", "mass")]
    assert found.warnings[0].startswith("Column 'score' alone tells nearly all of mass (AUC 1.00)")
    assert (
        found.warnings[1].startswith("Which values are missing tells of nodule (AUC 0.7") and len(found.warnings) == 2
    )


def test_other_images_are_predicted_by_the_model_of_the_training_images():
    train, other = made(), made(80, seed=5)
    scores = record_scores(train, other, SCHEMA)
    assert auc(scores, classes_present(other), np.ones((1, 80)))[0, 0] > 0.6
    few = made(4)
    assert record_alone(few, SCHEMA, 10).rows["record"].keys() == {
        "mass",
        "nodule",
    }  # no crash where nothing can be said


def test_the_score_of_an_image_is_its_best_box():
    truth, rng = made(6), np.random.default_rng(0)
    results = [{"image_id": int(i), "category_id": int(k), "bbox": [0, 0, 3, 3], "score": float(rng.random())}
               for i, k in zip(rng.integers(0, 5, 20), rng.integers(1, 3, 20), strict=True)]  # fmt: skip
    found = image_scores(truth, Detections.load(results, truth))
    for image in range(6):
        for k in (1, 2):
            own = [one["score"] for one in results if (one["image_id"], one["category_id"]) == (image, k)]
            assert found[image, k - 1] == max(own) if own else found[image, k - 1] < 0
