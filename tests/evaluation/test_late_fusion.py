"""Late fusion: Bayes by hand, exponents against a slow fit, the oracle, and the command with bad input."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize
from simulated import simulate

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.loaders import records_of
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.oracle import oracle_predictions
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.errors import DatasetError, ResultsError
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.evaluator import ground_truth_of
from mdf_detectron.evaluation.late_fusion import LEAST_HITS, RecordOdds, fit_exponents, fuse_scores
from mdf_detectron.evaluation.scoring import match_table


def made_up(scores, image, category):
    boxes = np.tile([0.0, 0.0, 5.0, 5.0], (len(scores), 1))
    return Detections(np.array(image), np.array(category), boxes, np.array(scores), None)


def test_an_update_by_hand():
    """Two classes: of P(class | look) 0.4 and a record that is three times as frequent in it, odds 2/3 · 3 = 2."""
    ratios = np.log([[3.0, 0.5], [1.0, 8.0]])
    found = fuse_scores(made_up([0.4, 0.5, 0.5, 0.25], [0, 0, 1, 1], [0, 1, 0, 1]), ratios, np.array([1.0, 2.0]))
    np.testing.assert_allclose(found.scores, [2 / 3, 0.2, 0.5, 64 / 67])  # 1/4 of the odds; 1/3 · 8² = 64/3
    assert fuse_scores(made_up([0.0, 1.0], [0, 0], [0, 0]), ratios, np.ones(2)).scores.tolist() == pytest.approx(
        [0, 1], abs=1e-8
    )
    with pytest.raises(ResultsError, match=r"7.5 is not in \[0, 1\] \(2 such detections\)"):
        fuse_scores(made_up([0.5, 7.5, -1], [0, 0, 0], [0, 0, 0]), ratios, np.ones(2))


@pytest.fixture(scope="module")
def detected():
    """Ground truth, detections with scores in [0, 1], and ratios that tell whether a class is in the image."""
    annotations, (results,) = simulate(300, 5, num_classes=2)
    truth = GroundTruth.load(annotations)
    present = np.zeros((truth.num_images, 2))
    present[truth.image, truth.category] = 1
    ratios = 1.5 * (2 * present - 1) + np.random.default_rng(0).normal(0, 1.5, present.shape)
    return truth, results, ratios


def test_exponents_are_those_of_the_likeliest_logistic_model(detected):
    truth, results, ratios = detected
    detections = Detections.load(results, truth)
    found = fit_exponents(truth, detections, ratios)
    matches = match_table(truth, detections, "bbox_iobb", thresholds=[0.5])
    for k in range(2):
        own = matches.category == k
        s, hit = matches.scores[own], matches.true_positive[0][own]
        z, r = np.log(s / (1 - s)), ratios[matches.image[own], k]

        def loss(beta, z=z, r=r, hit=hit):
            odds = beta[0] + beta[1] * z + beta[2] * r
            return np.logaddexp(0, odds).sum() - odds[hit].sum() + 0.05 * (beta[1:] ** 2).sum()

        options = {"maxiter": 5000, "fatol": 1e-10, "xatol": 1e-8}
        slow = minimize(loss, np.ones(3), method="Nelder-Mead", options=options).x
        assert found.values[k] == pytest.approx(slow[2] / slow[1], rel=1e-3) and 0.1 < found.values[k] < 2
        assert found.hits[k] == hit.sum()
    assert "fitted to" in found.note and "fewer" not in found.note


def test_few_true_positives_share_an_exponent_or_get_1(detected):
    truth, results, ratios = detected
    few = [one for one in results if one["category_id"] == truth.category_ids[0]]
    rare = [one for one in results if one["category_id"] != truth.category_ids[0]][:15]
    shared = fit_exponents(truth, Detections.load(few + rare, truth), ratios)
    assert shared.hits[1] < LEAST_HITS < shared.hits[0] and shared.values[1] != 1
    assert f"{truth.class_names[1]}: fewer than 20, so that of all classes together" in shared.note
    one = fit_exponents(truth, Detections.load(few + rare, truth), ratios, by_class=False)
    assert one.values.tolist() == [shared.values[1]] * 2 and one.note.startswith("one exponent fitted to")
    alone = fit_exponents(truth, Detections.load(rare, truth), ratios)
    assert alone.values.tolist() == [1, 1] and "exponent 1: " in alone.note and "20 are needed" in alone.note
    useless = fit_exponents(truth, Detections.load(results, truth), np.zeros_like(ratios))
    assert useless.values.tolist() == [1, 1]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    out = tmp_path_factory.mktemp("late") / "late_cxr"
    prepare_synthetic(out, CohortSettings(num_patients=400, seed=11, image_size=64), num_workers=1)
    register_prepared_folder(out, "late_cxr")
    return out


def test_late_fusion_reaches_its_oracle_where_look_and_record_are_independent(synthetic):
    """Image-only posteriors, updated by the fitted record model, score as updated by the true law."""
    odds, truth = RecordOdds("late_cxr_train"), ground_truth_of("late_cxr_test")
    ratios = odds(records_of(["late_cxr_test"]), truth.image_ids)

    def ap50(found):
        return evaluate_coco(truth, found, tasks=["bbox"])["bbox"]["AP50"]

    image, best = (oracle_predictions(synthetic, "test", name) for name in ("image", "late fusion"))
    fused = fuse_scores(Detections.load(image, truth), ratios, np.ones(truth.num_classes))
    assert ap50(best) > ap50(image) + 8 and ap50(fused) == pytest.approx(ap50(best), abs=4)
    assert odds.without_example == []


def test_the_command(run, synthetic, tmp_path):
    files = [tmp_path / name for name in ("test.json", "val.json")]
    for path, split in zip(files, ("test", "val"), strict=True):
        path.write_text(json.dumps(oracle_predictions(synthetic, split, "image")))
    printed = run("late-fusion", synthetic, "--predictions", files[0], "--validation-predictions", files[1],
                  "--out", tmp_path / "out.json")  # fmt: skip
    assert "| all |" in printed and "exponents fitted to" in printed and "AUC of the record alone" in printed
    before, after = (json.loads(path.read_text()) for path in (files[0], tmp_path / "out.json"))
    assert [{**a, "score": 0} for a in after] == [{**b, "score": 0} for b in before]
    truth = synthetic / "annotations" / "test.json"
    aps = [evaluate_coco(truth, found, tasks=["bbox"])["bbox_iobb"]["AP50"] for found in (before, after)]
    assert aps[1] > aps[0] + 8 and all(f"{ap:.1f}" in printed for ap in aps)
    printed = run("late-fusion", synthetic, "--predictions", files[0], "--out", tmp_path / "a.json", "--columns", "age")
    assert "exponent 1: no predictions of the validation split were given" in printed


def test_bad_input(run, synthetic, tmp_path, tiny_folder):
    result = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}
    path, other = tmp_path / "a.json", tmp_path / "b.json"
    path.write_text(json.dumps([result]))
    command = ["late-fusion", synthetic, "--predictions", path, "--out", tmp_path / "out.json"]

    def refused(text, *more):
        with pytest.raises(SystemExit) as end:
            run(*command, *more)
        assert text in str(end.value) and "\n" not in str(end.value) and not (tmp_path / "out.json").exists()

    first = json.loads((synthetic / "annotations" / "test.json").read_text())["images"][0]["id"]
    path.write_text(json.dumps([{**result, "image_id": first}]))
    other.write_text(json.dumps([{**result, "image_id": "no such"}]))
    refused("unknown clinical column(s) ['weight']; the schema has", "--columns", "weight")
    refused("b.json[0]: ", "--validation-predictions", other)
    path.write_text(json.dumps([{**result, "image_id": first, "score": 1.2}]))
    refused("late fusion needs scores that are probabilities: 1.2")
    with pytest.raises(DatasetError, match="no clinical column, so there is no record"):
        RecordOdds("late_cxr_train", [])
    register_prepared_folder(tiny_folder, "tiny_cxr")
    ratios = RecordOdds("tiny_cxr_train")(records_of(["tiny_cxr_test"]), ground_truth_of("tiny_cxr_test").image_ids)
    assert ratios.shape == (4, 2) and np.isfinite(ratios).all()
