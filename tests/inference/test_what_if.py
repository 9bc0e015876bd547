"""Findings under changed records: matching, tracking, and contributions against slow references."""

import itertools
import math

import numpy as np
import pytest

from mdf_detectron.cli.whatif import main
from mdf_detectron.errors import DatasetError
from mdf_detectron.inference.findings import DetectedFinding
from mdf_detectron.inference.what_if import (
    ablation_values,
    background_records,
    changed_record,
    contributions,
    match_findings,
    scores_of,
    shapley_values,
    sweep,
)

RECORD = {"age": 43, "temperature": 98.6, "gender": "F"}


@pytest.fixture
def study(tiny_predictor, tiny_folder):
    return tiny_predictor.prepare(tiny_folder / "images" / "test_2.png", RECORD)


def finding(box, score, index=0):
    return DetectedFinding(index, f"class {index}", score, None, box, score >= 0.5)


def test_matching_by_hand():
    before = [finding((0, 0, 10, 10), 0.9), finding((50, 50, 60, 60), 0.4), finding((0, 0, 10, 10), 0.3, 1)]
    after = [finding((1, 0, 10, 10), 0.2), finding((0, 0, 10, 10), 0.6), finding((80, 80, 90, 90), 0.7)]
    matched = match_findings(before, after)
    assert [(m.before and m.before.score, m.after and m.after.score) for m in matched] == [
        (0.9, 0.6), (None, 0.7), (0.4, None), (0.3, None), (None, 0.2),
    ]  # fmt: skip
    assert matched[0].to_dict()["above_threshold_after"] and matched[1].to_dict()["score_before"] is None
    assert match_findings([], []) == []


def test_a_finding_is_followed_with_the_score_that_the_model_gives(tiny_predictor, study):
    (before,) = tiny_predictor.predict([study])
    targets = before.findings[:3]
    records = [RECORD, {}, {**RECORD, "age": 47}]
    scores = scores_of(tiny_predictor, study, targets, records)
    np.testing.assert_allclose(scores[0], [t.score for t in targets], atol=1e-5)
    for record, row in zip(records, scores, strict=True):
        (other,) = tiny_predictor.predict([tiny_predictor.with_record(study, record)])
        for target, score in zip(targets, row, strict=True):
            for m in match_findings([target], other.findings):
                if m.before and m.after:
                    assert score == pytest.approx(m.after.score, abs=1e-5)
    assert not np.allclose(scores[0], scores[1])
    assert tiny_predictor.model.roi_heads.mask_on and tiny_predictor.predict([study])[0].to_coco() == before.to_coco()
    swept = sweep(tiny_predictor, study, RECORD, targets, "age", [43, 47])
    np.testing.assert_allclose(swept, scores[[0, 2]], atol=1e-5)


def test_changes_are_checked(tiny_predictor, tiny_image_only_predictor):
    assert changed_record(tiny_predictor, RECORD, {"age": 50}, ["gender"]) == {**RECORD, "age": 50, "gender": None}
    with pytest.raises(DatasetError, match="does not read"):
        changed_record(tiny_predictor, RECORD, {"Age": 50})
    with pytest.raises(DatasetError, match="both"):
        changed_record(tiny_predictor, RECORD, {"age": 50}, ["age"])
    with pytest.raises(DatasetError, match="the image only"):
        changed_record(tiny_image_only_predictor, RECORD, {"age": 50})
    with pytest.raises(DatasetError, match="no column contributes"):
        contributions(tiny_image_only_predictor, None, RECORD, [])


def interacting(present, number):
    """Scores of two findings: three interacting columns, two background records."""
    a, b, c = present.T.astype(float)
    return np.stack(
        [0.1 * number + 0.3 * a + 0.2 * b * c + 0.1 * a * c, 0.5 - 0.4 * b * (1 + number) + a * b * c], axis=1
    )


def slow_shapley(target):
    """Average over all permutations and background records."""
    out = np.zeros(3)
    for number in (0, 1):
        for order in itertools.permutations(range(3)):
            present = np.zeros((1, 3), dtype=bool)
            for column in order:
                before = interacting(present, number)[0, target]
                present[0, column] = True
                out[column] += (interacting(present, number)[0, target] - before) / (2 * math.factorial(3))
    return out


def test_shapley_values_approach_the_sum_over_all_permutations():
    found = shapley_values(interacting, 3, 2, 2, 1200, 0)
    for target in (0, 1):
        expected = slow_shapley(target)
        np.testing.assert_allclose(found[target], expected, atol=0.03)
        whole = interacting(np.ones((1, 3), dtype=bool), 0)[0, target], interacting(np.ones((1, 3), bool), 1)[0, target]
        nothing = [interacting(np.zeros((1, 3), dtype=bool), n)[0, target] for n in (0, 1)]
        assert found[target].sum() == pytest.approx(np.mean(whole) - np.mean(nothing), abs=1e-6)


def test_ablation_by_hand():
    found = ablation_values(interacting, 3, 2)
    np.testing.assert_allclose(found[0], [0.3 + 0.1, 0.2, 0.2 + 0.1], atol=1e-12)
    np.testing.assert_allclose(found[1], [1.0, -0.6 + 1.0, 1.0], atol=1e-12)


def test_contributions_of_a_model_add_up(tiny_predictor, study):
    (before,) = tiny_predictor.predict([study])
    targets = before.findings[:2]
    found = contributions(tiny_predictor, study, RECORD, targets, num_background=3, num_permutations=6)
    assert found.columns == ["age", "temperature", "gender"] and found.values.shape == (2, 3)
    np.testing.assert_allclose(found.scores, [t.score for t in targets], atol=1e-5)
    np.testing.assert_allclose(found.values.sum(axis=1), found.scores - found.background, atol=1e-5)
    again = contributions(tiny_predictor, study, RECORD, targets, num_background=3, num_permutations=6)
    np.testing.assert_allclose(found.values, again.values, atol=1e-7)


def test_the_background_follows_the_training_distribution(tiny_predictor):
    records = background_records(tiny_predictor, 4000, seed=1)
    ages = np.array([r["age"] for r in records])
    assert 40 <= ages.min() and ages.max() <= 47 and ages.mean() == pytest.approx(43.5, abs=0.1)
    assert np.mean([r["gender"] == "F" for r in records]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([r["temperature"] is None for r in records]) == pytest.approx(1 / 8, abs=0.02)


def test_the_command_writes_everything(tiny_run, tiny_folder, tmp_path, capsys):
    weights, image = str(tiny_run / "model_final.pth"), str(tiny_folder / "images" / "test_2.png")
    main(["--weights", weights, "--image", image, "--record", "age=43", "gender=F", "--set", "age=47",
          "--hide", "gender", "--sweep", "age", "40", "47", "3",
          "--sweep", "gender", "--explain", "ablation", "--background", "2", "--out", str(tmp_path)])  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {
        "what_if.json", "what_if.png", "sweep_age.png", "sweep_gender.png", "contributions.png"
    }  # fmt: skip
    assert "no cause" in (tmp_path / "what_if.json").read_text() and "no cause" in capsys.readouterr().out
    for words, message in (
        (["--sweep", "height", "1", "2", "3"], "the model reads"),
        (["--sweep", "age", "1", "2"], "expected COLUMN FROM TO COUNT"),
        (["--sweep", "age", "0", "500", "3"], "outside its legal range"),
        (["--set", "age=old"], "not a number"),
    ):
        with pytest.raises(DatasetError, match=message):
            main(["--weights", weights, "--image", image, "--out", str(tmp_path), *words])
