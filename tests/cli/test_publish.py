"""``mdf publish``: a smaller file with thresholds, calibration and results, and a model card."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.cli import evaluate
from mdf_detectron.cli.publish import main
from mdf_detectron.errors import CheckpointError, ConfigError
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.froc import froc_detections
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.model_zoo.publishing import splits_of


@pytest.fixture(scope="module")
def published(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "model.pth"
    main(["--weights", str(tiny_run / "model_final.pth"), "--out", str(out), "--resamples", "20",
          "--false-positives", "1"])  # fmt: skip
    return out


def test_the_file_holds_what_is_needed_and_no_more(published, tiny_run):
    data = Checkpoint.open(published).data
    assert set(data) == {"model", "mdf_config", "contents", "sha256"}
    before = Checkpoint.open(tiny_run / "model_final.pth").weights
    assert all(torch.equal(before[name], value) for name, value in data["model"].items())
    assert published.stat().st_size < 0.6 * (tiny_run / "model_final.pth").stat().st_size
    results = data["contents"]["results"]
    assert results["name"] == "tiny_cxr_test" and results["dataset"]["images"] == 4
    assert results["against_exchanged_records"]["verdict"] in ("better", "worse", "no difference shown")


@pytest.fixture(scope="module")
def predictor(published):
    return Predictor(published, device="cpu")


@pytest.fixture(scope="module")
def on_validation(predictor, tiny_folder):
    """The annotation file of the validation split, and the predictor's COCO results on it."""
    path, results = tiny_folder / "annotations" / "val.json", []
    for image in json.loads(path.read_text())["images"]:
        results += predictor(tiny_folder / "images" / image["file_name"], image["clinical"]).to_coco(image["id"])
    return path, results


def test_thresholds_do_on_validation_data_what_was_asked_for(predictor, on_validation):
    path, results = on_validation
    ground_truth = GroundTruth.load(path)
    found = froc_detections(ground_truth, Detections.load(results, ground_truth))
    for k, name in enumerate(predictor.class_names):
        point = predictor.contents["operating_point"]["classes"][name]
        threshold = math.inf if point["threshold"] is None else point["threshold"]
        assert predictor.thresholds[name] == threshold
        kept = (found.category == k) & (found.scores >= threshold)
        false_positives = (kept & ~found.true_positive).sum() / found.num_images
        assert false_positives == pytest.approx(point["false_positives"]) and false_positives <= 1
        if point["boxes"]:
            assert (kept & found.true_positive).sum() / point["boxes"] == pytest.approx(point["sensitivity"])
    assert "1 false positives an image and class, on tiny_cxr_val (2 images)" in predictor.threshold_source


def test_an_evaluation_shows_what_the_stored_choices_do(published, on_validation, tmp_path):
    path, results = on_validation
    (tmp_path / "own.json").write_text(json.dumps(results))
    evaluate.main(["--annotations", str(path), "--predictions", str(tmp_path / "own.json"), "--out",
                   str(tmp_path / "out"), "--resamples", "5", "--weights", str(published)])  # fmt: skip
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())["models"]["own"]["stored"]
    assert set(stored["operating_point"]["classes"]) == {"bright", "dark"}
    for one in stored["operating_point"]["classes"].values():  # the data that they were chosen on
        assert one["here"] == pytest.approx(one["chosen"])
    assert stored["calibration"] is None  # there was no true positive to fit a temperature on
    report = (tmp_path / "out" / "report.md").read_text()
    assert "own: operating thresholds on these images" in report
    assert "own: calibration of the scores" in report and (tmp_path / "out" / "figures" / "calibration.png").is_file()


def test_an_evaluation_refuses_the_thresholds_of_another_model(published, tiny_run, tiny_folder, tmp_path):
    truth = json.loads((tiny_folder / "annotations" / "val.json").read_text())
    for weights, name, message in (
        (tiny_run / "model_final.pth", "dark", "no thresholds and no calibration"),
        (published, "nodule", r"a model of \['bright', 'dark'\]"),
    ):
        truth["categories"][1]["name"] = name
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (tmp_path / "none.json").write_text("[]")
        with pytest.raises(CheckpointError, match=message):
            evaluate.main(["--annotations", str(tmp_path / "truth.json"), "--predictions", str(tmp_path / "none.json"),
                           "--out", str(tmp_path / "out"), "--resamples", "2", "--weights", str(weights)])  # fmt: skip


def test_half_precision_is_smaller_and_close(published, predictor, tiny_run, tiny_folder, tmp_path):
    out = tmp_path / "half.pth"
    main(["--weights", str(tiny_run / "model_final.pth"), "--out", str(out), "--half", "--no-data"])
    assert out.stat().st_size < 0.7 * published.stat().st_size
    half = Predictor(out, device="cpu")
    assert half.model.backbone.clinical_encoder.mean.tolist() == predictor.model.backbone.clinical_encoder.mean.tolist()
    image = tiny_folder / "images" / "test_2.png"
    one, other = predictor(image, {"age": 42}).findings[0], half(image, {"age": 42}).findings[0]
    assert one.class_name == other.class_name and one.score == pytest.approx(other.score, abs=0.01)
    assert np.allclose(one.box, other.box, atol=0.5) and one.score != other.score


def test_the_card_says_what_was_measured(published, tmp_path, tiny_image_only_run):
    card = published.with_suffix(".md").read_text()
    data = Checkpoint.open(published).data
    assert data["sha256"] in card and "8 images of 8 patients: tiny_cxr_train" in card
    assert "| temperature | °F | 80 to 113 | 98.6 (98.6 to 98.6) | 12 % |" in card
    value = data["contents"]["results"]["metrics"]["bbox_iobb"]["AP50"]["value"]
    assert f"{value:.1f}" in card and "subgroup analysis" not in card and "trained without clinical dropout" in card
    main(["--weights", str(tiny_image_only_run / "model_final.pth"), "--out", str(tmp_path / "i.pth"), "--no-data"])
    image_only = (tmp_path / "i.md").read_text()
    assert "The model does not read it." in image_only and "Not measured." in image_only


def test_mistakes(tiny_run, tmp_path):
    weights, out = str(tiny_run / "model_final.pth"), str(tmp_path / "m.pth")
    for words, kind, message in (
        (["--weights", str(tmp_path / "absent.pth")], CheckpointError, "no checkpoint"),
        (["--weights", weights, "--val", "nothing"], ConfigError, "not registered"),
        (["--weights", weights, "--val", "tiny_cxr_test"], ConfigError, "must not be chosen on the test split"),
    ):
        with pytest.raises(kind, match=message):
            main([*words, "--out", out])
    assert not (tmp_path / "m.pth").exists()


def test_splits_that_a_training_does_not_name_are_those_of_its_folder(tiny_run):
    datasets = SimpleNamespace(TRAIN=("tiny_cxr_train",), VAL=("tiny_cxr_val",), TEST=())
    of_a_study = SimpleNamespace(saved_cfg=SimpleNamespace(DATASETS=datasets))
    assert splits_of(of_a_study, None, None) == ("tiny_cxr_val", "tiny_cxr_test")
