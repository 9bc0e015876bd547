"""Estimates, tests, ensembles and the report, from predictions that are made up."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from simulated import paired_test

from mdf_detectron.config import value_at
from mdf_detectron.config_file import load_config
from mdf_detectron.data.loaders import records_of
from mdf_detectron.data.record_changes import permute_records, remove_records
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.errors import ResultsError
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.estimates import Verdict, concatenate_folds, number
from mdf_detectron.evaluation.late_fusion import RecordOdds
from mdf_detectron.experiments.correlation import correlations, weighted_correlation
from mdf_detectron.experiments.estimates import Comparison, StudyEstimator, fuse_detections
from mdf_detectron.experiments.figures import FigureMaker
from mdf_detectron.experiments.late_fusion import with_late_fusion
from mdf_detectron.experiments.launch import note_failure
from mdf_detectron.experiments.plan import PlannedFigure
from mdf_detectron.experiments.report import (
    _facts,
    answer,
    compare_subgroups,
    not_tested,
    planned_comparisons,
    write_study_report,
)
from mdf_detectron.experiments.trainings import CHOSEN_BY, SCORES_FILE_NAME, predictions_file, read_results
from mdf_detectron.fileio import read_json
from tests.experiments.conftest import PLAN, SMALL


def fused_is_better(training, state):
    """The image-only model finds half of the boxes; the other all, and none with another patient's record."""
    if training.variant == "image_only":
        return 0.5
    return {"shuffled": 0.0, "removed": 0.5}.get(state, 1.0)


@pytest.fixture(scope="module")
def study(make_study, finish, make_folds):
    plan, data, trainings = make_study(make_folds(), folds="all")
    finish(trainings, data, fused_is_better)
    return plan, data, trainings


def test_subgroups_are_found_by_kind_and_unit_in_any_language():
    columns = (ClinicalColumn("Alter", "numeric", "years", 0, 120), ClinicalColumn("CRP", "numeric", "mg/l", 0, 500),
               ClinicalColumn("Geschlecht", "categorical", vocabulary=("m", "w")))  # fmt: skip
    images = [{"id": n, "file_name": "x.png", "width": 9, "height": 9, "patient_id": str(n),
               "clinical": {"Alter": 20 + 4 * n, "CRP": n, "Geschlecht": "mw"[n % 2]}} for n in range(16)]  # fmt: skip
    truth = GroundTruth.load({"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    undefined = Verdict.of(dict.fromkeys(("value", "low", "high", "p_value")))
    plan, data = (
        SimpleNamespace(subgroups=None, baseline="a", model="b"),
        SimpleNamespace(schema=ClinicalSchema(columns)),
    )
    estimator = SimpleNamespace(results=SimpleNamespace(plan=plan, data=data), images=concatenate_folds({0: truth}),
                                compare=lambda *sides: Comparison(*sides[:2], undefined, (1, 1)))  # fmt: skip
    assert {group.column for group, _ in compare_subgroups(estimator)} == {"Alter", "Geschlecht"}


def slow_mean(trainings, data, variant, state, metric="AP50"):
    """Mean over folds of the mean over seeds, scored file by file."""
    folds = {}
    for t in trainings:
        if t.variant == variant:
            split = data.splits[t.fold]["test"]
            truth = {"images": split.images, "annotations": split.annotations, "categories": split.categories}
            found = evaluate_coco(truth, predictions_file(t.folder, state), tasks=["bbox"])
            folds.setdefault(t.fold, []).append(found["bbox_iobb"][metric])
    return np.mean([np.mean(values) for values in folds.values()])


def slow_image_auc(trainings, data, variant, name):
    """Mean over folds of the mean over seeds: how well the best score of a class in an image tells its presence."""
    folds = {}
    for t in (t for t in trainings if t.variant == variant):
        split, results = data.splits[t.fold]["test"], json.loads(predictions_file(t.folder, "full").read_text())
        (k,) = (one["id"] for one in split.categories if one["name"] == name)
        best = {i["id"]: max([r["score"] for r in results if (r["image_id"], r["category_id"]) == (i["id"], k)] or [-1])
                for i in split.images}  # fmt: skip
        there = {a["image_id"] for a in split.annotations if a["category_id"] == k}
        pairs = [(best[a] > best[b]) + (best[a] == best[b]) / 2 for a in there for b in best.keys() - there]
        folds.setdefault(t.fold, []).append(np.mean(pairs))
    return np.mean([np.mean(values) for values in folds.values()])


@pytest.mark.parametrize(("variant", "state"), [("image_only", "full"), ("fused", "full"), ("fused", "removed")])
def test_estimates_are_means_over_folds_and_seeds(study, variant, state):
    plan, data, trainings = study
    rows = StudyEstimator(read_results(plan, data, trainings), 60).estimates(variant, state)
    for metric in ("AP50", "AR50", "AP50-dark"):
        assert rows[metric]["value"] == pytest.approx(slow_mean(trainings, data, variant, state, metric))
        assert rows[metric]["low"] <= rows[metric]["value"] <= rows[metric]["high"]


def test_comparisons_against_a_slow_reference(study):
    """On one fold with one seed, the comparison is the paired test of the two files."""
    plan, data, trainings = study
    one = [t for t in trainings if t.seed == 1 and t.fold == 1]
    results = read_results(plan, data, one)
    estimator = StudyEstimator(results, 80)
    assert estimator.spread is None
    found = estimator.compare(("image_only", "full"), ("fused", "full"))
    split = data.splits[1]["test"]

    def statistic(training):
        results = json.loads(predictions_file(training.folder, "full").read_text())

        def of_weights(weights):  # images as often as they were drawn, scored anew
            out = []
            for row in weights[:, estimator.images.places[1]]:
                images, boxes, dets = [], [], []
                for i, times in enumerate(row.astype(int)):
                    old = split.images[i]["id"]
                    for _ in range(times):
                        new = len(images) + 1
                        images.append({**split.images[i], "id": new})
                        boxes += [{**b, "id": len(boxes) + n + 1, "image_id": new} for n, b in enumerate(
                            a for a in split.annotations if a["image_id"] == old)]  # fmt: skip
                        dets += [{**d, "image_id": new} for d in results if d["image_id"] == old]
                data = {"images": images, "annotations": boxes, "categories": split.categories}
                out.append([evaluate_coco(data, dets, tasks=["bbox"])["bbox_iobb"]["AP50"]])
            return np.array(out)

        return of_weights

    patients, boxes = estimator.images.patients, int(estimator.sizes[0])  # of both folds: all images are drawn
    places = {t.variant: t for t in one}
    slow = paired_test(statistic(places["image_only"]), statistic(places["fused"]), patients, boxes, 80)
    assert found.row["value"] == pytest.approx(slow.difference[0])
    assert (found.row["low"], found.row["high"]) == pytest.approx((slow.low[0], slow.high[0]))
    assert found.row["p_value"] == pytest.approx(slow.p_value[0])


def test_what_is_tested(study):
    results = read_results(*study)
    full = "full"
    assert planned_comparisons(results.plan, results) == [
        (("image_only", full), ("fused", full)),
        (("fused", "removed"), ("fused", full)),
        (("fused", "shuffled"), ("fused", full)),
    ]


def test_the_whole_report(study, tmp_path):
    page = write_study_report(tmp_path / "out", read_results(*study), 50)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "the record helps" in text.splitlines()[2].lower() and "With another patient's record" in text
    assert "Not tested: the model with half of its values hidden;" in text
    assert "test patients with 10 ground-truth boxes, 2 seeds and this study's own interval: a difference of" in text
    assert "Published values are left out" not in text and "published" not in text.split("Published: one run.")[0]
    for heading in ("Places", "States", "Counts", "Columns", "Generalization", "Sweep", "Subgroup analysis",
                    "What the record alone tells",
                    "All comparisons", "Ensembles over the seeds of each fold", "Speed", "Trainings"):  # fmt: skip
        assert f"\n## {heading}\n" in text, heading
    figures = {path.stem for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert figures == {"places", "states", "counts", "columns", "train_test", "sweep", "subgroups", "states_losses"}
    assert page.read_text().count("<img ") == len(figures) and "NaN" not in text and "nan" not in page.read_text()
    saved = read_json(tmp_path / "out" / "study.json", ResultsError)
    first = saved["comparisons"][0]
    assert first["verdict"] == ("better" if first["corrected"] <= 0.05 else "better, not sure after correction")
    assert all(one["corrected"] >= one["p_value"] for one in saved["comparisons"])
    told = saved["record_alone"]["test"]
    for title, variant in (("Image-only", "image_only"), ("With the record", "fused")):
        for name, row in told[title].items():
            assert row["value"] == pytest.approx(slow_image_auc(study[2], study[1], variant, name))
    assert list(told) == ["the record alone", "Image-only", "Late fusion of Image-only", "With the record"]
    counts = (tmp_path / "out" / "tables" / "counts_counts.csv").read_text().splitlines()
    assert counts[3].startswith("With the record,10 ")  # 3 + 7 boxes, all found


def test_late_fusion_is_a_variant_without_trainings(study, tmp_path):
    """Its scores are the image-only model's with the odds that a state of the records gives; nothing is trained."""
    plan, data, trainings = study
    before = read_results(plan, data, trainings)
    results = with_late_fusion(before)
    name = results.late.name
    assert results.variants == ["image_only", name, "fused"] and results.trained == ["image_only", "fused"]
    assert results.runs == before.runs and results.states(name) == ("full", "removed", "shuffled")
    assert [f.variants for f in results.plan.figures if f.show == "comparison"] == [["image_only", name, "fused"]]
    for source, run in zip(results.finished("image_only"), results.finished(name), strict=True):
        fold = run.training.fold
        odds = RecordOdds(data.dataset_names(fold)["train"], ["age", "gender"])
        records = records_of([data.dataset_names(fold)["test"]])
        plain, exponent = source.detections["full"], results.late.exponents[run.training.label].values
        for state, changed in (("full", records), ("removed", remove_records(records)),
                               ("shuffled", permute_records(records))):  # fmt: skip
            ratio = odds(changed, results.test.truths[fold].image_ids)
            slow = []
            for s, i, k in zip(plain.scores, plain.image, plain.category, strict=True):
                against = (1 - s) * np.exp(-exponent[k] * ratio[i, k])
                slow.append(s / (s + against))
            np.testing.assert_allclose(run.detections[state].scores, slow, rtol=1e-6)
        np.testing.assert_allclose(run.detections["removed"].scores, plain.scores, rtol=1e-6)
    assert all("are needed to fit one" in one.note for one in results.late.exponents.values())
    pairs = planned_comparisons(results.plan, results)
    assert pairs[:3] == [((a, "full"), (b, "full")) for a, b in
                         (("image_only", "fused"), ("image_only", name), (name, "fused"))]  # fmt: skip
    assert ((name, "shuffled"), (name, "full")) in pairs and ((name, "removed"), (name, "full")) not in pairs
    write_study_report(tmp_path / "out", before, 30)
    text = (tmp_path / "out" / "report.md").read_text()
    answer_text = text.splitlines()[2]
    assert "AP50 of Late fusion of Image-only minus Image-only is " in answer_text
    assert "With the record does more than Late fusion of Image-only" in answer_text
    tables = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert "| image_only/seed1_fold0 | 1.00 |" in tables["Exponents of late fusion"]
    assert "Late fusion" not in tables["Speed"] + tables["Trainings"] and "| Late fusion of" in tables["States"]


def test_late_fusion_of_a_study_that_predicted_no_validation_split(make_study, finish, tiny_folder, monkeypatch):
    """An older folder is reported as it is, with exponents of 1; running the study again predicts what is absent."""
    plan, data, trainings = make_study(tiny_folder, seeds=[1])
    finish(trainings, data, fused_is_better)
    assert all(one.is_complete for one in trainings)
    predictions_file(trainings[0].folder, "val").unlink()
    assert trainings[0].scores() is not None and not trainings[0].is_complete and trainings[1].is_complete
    results = with_late_fusion(read_results(plan, data, trainings))
    (exponents,) = results.late.exponents.values()
    assert exponents.values.tolist() == [1, 1] and "was not predicted" in exponents.note
    alone = plan.model_copy(update={"question": None})
    assert with_late_fusion(read_results(alone, data, trainings)).late is None


def test_the_spread_between_a_model_and_its_late_fusion_is_that_of_their_differences(study):
    """Both sides are the same trainings, so what varies between seeds alike is no uncertainty of the difference."""
    results = with_late_fusion(read_results(*study))
    estimator, sides = StudyEstimator(results, 20), [("image_only", "full"), (results.late.name, "full")]
    everywhere = np.ones(len(results.test.patients), dtype=bool)
    found = estimator._spread_of_difference(*sides, (4, 4), everywhere)
    by_fold = [estimator._values(sides[1], fold, everywhere) - estimator._values(sides[0], fold, everywhere)
               for fold in (0, 1)]  # fmt: skip
    assert found.std == pytest.approx(np.sqrt(np.mean([np.var(one, ddof=1) for one in by_fold]) / 4))


def test_published_values_stand_next_to_ours_only_if_data_and_selection_are_theirs(make_study, finish, tiny_folder):
    """Cohort, certainty and split rule are the report's arguments; selection and schedule those of the config."""
    paper = {"min_certainty": 1, "split_by": "row"}
    selection = {key: value_at(load_config(PLAN["config"]), key) for key in CHOSEN_BY}
    options = {"published_on": paper, "overrides": {**SMALL, **selection}}

    def shown(data, plan, trainings, **changes):
        finish(trainings, data, fused_is_better)
        results = read_results(plan, replace(data, **changes), trainings)
        made = FigureMaker(StudyEstimator(results, 20), {}).section(plan.figures[0])
        there = '"With the record, published",–,–,31.7,–' in made.tables[0].to_csv()
        assert there == (plan.figures[0].note in made.paragraphs)
        return there, _facts(results)[-1]

    plan, data, trainings = make_study(tiny_folder, **options)
    there, text = shown(data, plan, trainings, arguments=paper)
    assert there and "for orientation" in text
    for changes, message in (
        ({"arguments": {**paper, "min_certainty": 3}}, "min_certainty of the data is 3, not 1."),
        ({}, "min_certainty of the data is None, not 1; split_by of the data is None, not 'row'."),
        ({"arguments": paper, "synthetic": True}, "the data are synthetic."),
    ):
        assert shown(data, plan, trainings, **changes) == (False, f"Published values are left out: {message}")
    plan, data, trainings = make_study(tiny_folder, opts=["VALIDATION.METRIC", "bbox/AR50"], **options)
    message = "Published values are left out: VALIDATION.METRIC is bbox/AR50, not bbox_iobb/AP50."
    assert shown(data, plan, trainings, arguments=paper) == (False, message)


def test_a_failed_training_has_a_row_and_the_others_are_reported(make_study, finish, make_folds, tmp_path):
    plan, data, trainings = make_study(make_folds(), folds="all", figures=[])
    finish(trainings, data, fused_is_better)
    failed = [t for t in trainings if t.variant == "fused" and t.seed == 2 and t.fold == 0][0]
    (failed.folder / SCORES_FILE_NAME).unlink()
    note_failure(failed, "killed by SIGKILL", failed.folder / "output.txt")
    results = read_results(plan, data, trainings)
    assert sum(run.scores is None for run in results.runs) == 1
    write_study_report(tmp_path / "out", results, 30)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| fused/seed2_fold0 | failed: killed by SIGKILL; see" in text
    assert "1 of 8 trainings, which did not finish" in text
    ensembles = text[text.index("Ensembles over the seeds") :]
    assert "| Image-only | 4 |" in ensembles and "| With the record | 2 |" in ensembles  # fold 0 has one left
    for training in [t for t in trainings if t.variant == "fused" and t.fold == 0]:
        (training.folder / SCORES_FILE_NAME).unlink(missing_ok=True)
    section = FigureMaker(StudyEstimator(read_results(plan, data, trainings), 20), {}).section(
        PlannedFigure(name="f", show="counts", variants=["image_only", "fused"])
    )
    assert any("With the record has no finished training of fold(s) 0" in line for line in section.paragraphs)
    assert not any("Image-only has" in line for line in section.paragraphs)
    for training in trainings:
        (training.folder / SCORES_FILE_NAME).unlink(missing_ok=True)
    with pytest.raises(ResultsError, match="none of 8 trainings is finished; the first is image_only/seed1_fold0: not"):
        read_results(plan, data, trainings)


def test_states_of_single_columns(make_study, finish, tiny_folder, tmp_path):
    """A column of each state is changed alone; the report says what it costs, as for the whole record."""
    records = ["half", "gender shuffled", "temperature removed", "each removed"]
    plan, data, trainings = make_study(tiny_folder, records=records, seeds=[1])
    assert plan.records == [*records[:3], "age removed", "gender removed"]
    (fused,) = (one for one in trainings if one.variant == "fused")
    assert fused.states == (
        "full",
        "half",
        "gender shuffled",
        "age removed",
        "gender removed",
    )  # it reads no temperature
    finish(trainings, data, lambda training, state: {"gender shuffled": 0.0}.get(state, 1.0))
    write_study_report(tmp_path, read_results(plan, data, trainings), 30)
    text = (tmp_path / "report.md").read_text()
    assert "With another patient's gender the same model loses 100.0" in text
    assert "Without age no difference is shown (0.0" in text and "age removed: without age" in text
    assert "| With the record minus With the record (with another patient's gender) |" in text


def test_shares_of_the_record_are_a_curve_and_no_tests(make_study, finish, tiny_folder, tmp_path):
    """What is kept tells what is found; more values find more, and few of them find less than the image alone."""
    records = ["share 75", "share 25", "removed"]
    plan, data, trainings = make_study(tiny_folder, records=records, seeds=[1])
    found = {"full": 1.0, "share 75": 0.8, "share 25": 0.2, "removed": 0.5}
    finish(trainings, data, lambda training, state: found.get(state, 1.0) if training.variant == "fused" else 0.5)
    results = read_results(plan, data, trainings)
    states = [first[1] for first, second in planned_comparisons(plan, results) if first[0] == second[0]]
    assert states == ["removed"]
    write_study_report(tmp_path, results, 20)
    text = (tmp_path / "report.md").read_text()
    values = [number(slow_mean(trainings, data, "fused", state)) for state in ("share 75", "share 25")]
    alone = number(slow_mean(trainings, data, "image_only", "full"))
    said = f"With 75, 25 % of each record's values With the record has AP50 {', '.join(values)}; Image-only {alone}."
    assert f"**{said} With 25 % it is more than a point below" in text
    assert (tmp_path / "figures" / "states_shares.png").is_file()
    assert "share 75: with 75 % of its values" in text and "half of its values hidden" not in text


def row(value, low, high, p=0.01, corrected=0.02):
    return {"value": value, "low": low, "high": high, "p_value": p, "least_p": 0.001, "corrected": corrected}


def test_a_verdict_holds_after_correction_or_says_that_it_does_not():
    cases = [(row(4.0, 0.5, 8.0), "better"), (row(-4.0, -8.0, -0.5), "worse"),
             (row(1.0, -1.0, 3.0), "no difference shown"),
             (row(4.0, 0.5, 8.0, 0.03, 0.3), "better, not sure after correction"),
             (row(-4.0, -8.0, -0.5, 0.03, 0.3), "worse, not sure after correction")]  # fmt: skip
    assert [Verdict.of(one).word for one, _ in cases] == [said for _, said in cases]


def test_synthetic_data_are_not_evidence_about_patients(study):
    plan, data, trainings = study
    results = read_results(plan, replace(data, synthetic=True), trainings)
    assert "anything about patients, as the data are synthetic" in not_tested(results)


ANSWERS = {
    "helps": (row(12.0, 8.0, 16.0), "The record helps. AP50 of With the record minus Image-only is 12.0 (8.0 to 16.0)"),
    "nothing": (row(1.0, -2.0, 4.0, 0.5, 1.0), "No difference shown: these data do not show that the record helps"),
    "harms": (row(-5.0, -9.0, -1.0), "The record harms."),
    "many tests": (row(4.0, 0.5, 8.0, 0.03, 0.3), "Not sure: the interval says that the record helps; with this many"),
    "undefined": (row(None, None, None, None, None), "Whether the record helps was not tested"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answers(case, study):
    results = read_results(*study)
    main, said = ANSWERS[case]
    sides = ("image_only", "full"), ("fused", "full")
    shuffled = ("fused", "shuffled"), ("fused", "full")
    tests = {
        sides: Comparison(*sides, Verdict.of(main), (4, 4)),
        shuffled: Comparison(*shuffled, Verdict.of(row(0.0, -1.0, 1.0)), (4, 4)),
    }
    text, open_questions = answer(results, tests, [], "AP50")
    assert text.startswith(said)
    assert "With another patient's record no difference is shown (0.0 (-1.0 to 1.0) points lost)." in text
    assert open_questions.startswith("Not tested: ")


def test_a_model_that_has_learned_nothing_gives_no_verdict(study, tmp_path, monkeypatch):
    results = read_results(*study)
    monkeypatch.setattr(StudyEstimator, "untrained", lambda self, variant: variant == "image_only")
    write_study_report(tmp_path, results, 20)
    text = (tmp_path / "report.md").read_text()
    assert "**Not trained enough: whether the record helps cannot be told" in text and "Can these data" not in text
    value = number(slow_mean(study[2], study[1], "image_only", "full"))
    assert f"is AP50 of Image-only: {value}. Train longer" in text
    saved = read_json(tmp_path / "study.json", ResultsError)
    assert [one["verdict"][:11] for one in saved["comparisons"]][:4:3] == ["not trained", "better, not"]
    assert {one["verdict"] for one in saved["subgroups"]} == {"not trained enough"}


def test_ensemble_by_hand():
    """Two models agree on one box, one alone sees another: mean box and score, and half the score."""
    truth = GroundTruth.load({
        "images": [{"id": 1, "width": 100, "height": 100}, {"id": 2, "width": 100, "height": 100}],
        "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    })  # fmt: skip
    of_first = [{"image_id": 2, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.8},
                {"image_id": 2, "category_id": 2, "bbox": [60, 60, 20, 20], "score": 0.6}]  # fmt: skip
    first = Detections.load(of_first, truth)
    second = Detections.load([{"image_id": 2, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.4}], truth)
    fused = fuse_detections(truth, [first, second])
    order = np.argsort(-fused.scores)
    assert fused.image.tolist() == [1, 1] and fused.category[order].tolist() == [0, 1]
    np.testing.assert_allclose(fused.scores[order], [0.6, 0.3], atol=1e-6)
    np.testing.assert_allclose(fused.boxes[order], [[10, 10, 20, 20], [60, 60, 20, 20]], atol=1e-4)
    assert len(fuse_detections(truth, [Detections.load([], truth)] * 2)) == 0


def test_weighted_correlation_counts_images_as_often_as_they_weigh():
    rng = np.random.default_rng(0)
    column, findings = rng.normal(size=30), rng.integers(0, 6, (30, 3)).astype(float)
    column[::7] = np.nan
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    found = weighted_correlation(column, findings, weights)
    for b in range(5):
        index = np.repeat(np.arange(30), weights[b].astype(int))
        index = index[np.isfinite(column[index])]
        for k in range(3):
            assert found[b, k] == pytest.approx(np.corrcoef(column[index], findings[index, k])[0, 1])
    assert np.isnan(weighted_correlation(np.ones(30), findings, weights)).all()


def test_correlations_take_certainty_where_boxes_have_it(study):
    _, data, _ = study
    splits = data.splits[0]
    found = correlations(splits, data.schema, 40)
    assert not found.certainty and list(found.columns) == ["age", "temperature", "gender = M"]
    images = [image for split in ("train", "val", "test") for image in splits[split].images]
    age = np.array([image["clinical"]["age"] for image in images], dtype=float)
    dark = {a["image_id"] for s in splits.values() for a in s.annotations if a["category_id"] == 2}
    expected = np.corrcoef(age, [image["id"] in dark for image in images])[0, 1]
    assert found.values[0, 1] == pytest.approx(expected)
    for split in splits.values():
        for n, box in enumerate(split.annotations):
            box["certainty"] = 3 + n % 3
    assert correlations(splits, data.schema, 40).certainty
