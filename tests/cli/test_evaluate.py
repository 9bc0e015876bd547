"""``mdf evaluate``: what it writes, what is in it, and what mistakes get."""

import json

import pytest
from simulated import simulate

from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.metrics import metric_values
from mdf_detectron.evaluation.scoring import match_table

FILES = ["metrics", "precision_recall", "froc", "threshold_sweep", "counts", "subgroups", "calibration"]


def polygon(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture
def files(tmp_path):
    """(annotations, weak predictions, strong predictions), with masks and rows; as data and as files."""
    annotations, models = simulate(40, 3, skills=(0.5, 3.0), num_classes=2)
    annotations["categories"][1]["name"] = (
        "a <b>name</b> | with marks, and longer than any chart has room for it at all"
    )
    for n, image in enumerate(annotations["images"]):
        image["clinical"] = {"age": 20 + n, "gender": "FM"[n % 2]} if n % 9 else None
    for entry in [*annotations["annotations"], *models[0], *models[1]]:
        entry["segmentation"] = polygon(entry["bbox"])
    paths = [tmp_path / name for name in ("truth.json", "weak.json", "strong.json")]
    for path, data in zip(paths, (annotations, *models), strict=True):
        path.write_text(json.dumps(data))
    return annotations, models, paths


def test_everything_is_written(run, files, tmp_path):
    annotations, (weak, strong), (truth, a, b) = files
    out = tmp_path / "out"
    printed = run("evaluate", "--annotations", truth, "--predictions", a, "--compare", b, "--out", out,
                  "--resamples", 60)  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    for found, expected in ((metrics, weak), (metrics["compare"], strong)):
        for table, values in evaluate_coco(annotations, expected).items():
            assert {k: found[table][k] for k in values} == pytest.approx(values)
    assert {"bbox_iobb", "bbox", "segm_iobb", "segm"} < set(metrics)
    difference = metrics["comparison"]["differences"]["bbox_iobb"]["AP50"]
    assert difference["value"] == pytest.approx(metrics["compare"]["bbox_iobb"]["AP50"] - metrics["bbox_iobb"]["AP50"])
    assert metrics["comparison"]["verdict"] == "better" and difference["low"] > 0 and difference["p_value"] < 0.05
    assert "strong minus weak" in printed
    for name in [*FILES, "confusion_1", "confusion_2"]:
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert page.count("data:image/png;base64,") == 9 and "http" not in page.replace("http-equiv", "")
    assert "a &lt;b&gt;name" in page and "<b>name" not in page
    assert 'name="viewport"' in page and "max-width: 100%" in page and "overflow-x: auto" in page
    assert "strong against weak: better" in text and "![Subgroup analysis](figures/subgroups.png)" in text
    assert {f"{m}_{t}.csv" for m in ("weak", "strong") for t in ("counts", "confusion", "froc", "threshold_sweep",
            "calibration", "subgroups", "metrics_segm")} <= {p.name for p in (out / "tables").iterdir()}  # fmt: skip
    assert not list(out.rglob("*.partial"))


def test_area_and_sweep(run, files, tmp_path):
    annotations, (weak, _), (truth, a, _) = files
    out = tmp_path / "out"
    run("evaluate", "--annotations", truth, "--predictions", a, "--out", out, "--resamples", 20, "--no-report",
        "--area", 0, 6000, "--sweep", 0.5, 0.7, 0.1)  # fmt: skip
    assert not (out / "figures").exists() and "data:image" not in (out / "report.html").read_text()
    metrics = json.loads((out / "metrics.json").read_text())
    ground_truth = GroundTruth.load(annotations)
    detections = Detections.load(weak, ground_truth)
    for table in ("bbox_iobb", "bbox", "segm_iobb", "segm"):
        names, values = metric_values(match_table(ground_truth, detections, table, area=(0, 6000)))
        assert [metrics[table][name] for name in names] == pytest.approx(values.tolist())
    assert metrics["bbox_iobb"]["AP50"] != evaluate_coco(annotations, weak)["bbox_iobb"]["AP50"]
    sweep = json.loads((out / "evaluation.json").read_text())["models"]["weak"]["sweep"]
    assert sweep["thresholds"] == [0.5, 0.6, 0.7]
    assert sweep["segm"]["AP"]["value"][0] == pytest.approx(metrics["segm"]["AP50"])
    assert "area range 0 to 6000 pixels²" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("plain/inference/mine_test", "with/inference/mine_test", ["plain", "with"]),
        ("plain/seed1/inference/mine_test", "with/seed1/inference/mine_test", ["plain/seed1", "with/seed1"]),
        ("predicted", "a/predicted_again", ["predicted", "predicted_again"]),
    ],
)
def test_models_are_named_by_their_runs_and_what_is_unusual_is_said(run, files, tmp_path, first, second, names):
    _, (weak, strong), (truth, _, _) = files
    paths = [tmp_path / folder / "coco_instances_results.json" for folder in (first, second)]
    for path, found in zip(paths, (weak, strong + strong[:5]), strict=True):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(found))
    out = tmp_path / "out"
    printed = run("evaluate", "--annotations", truth, "--predictions", paths[0], "--compare", paths[1], "--out", out,
                  "--resamples", 10, "--no-report")  # fmt: skip
    assert list(json.loads((out / "evaluation.json").read_text())["models"]) == names
    note = f"5 of {len(strong) + 5} detections repeat another in image, class, box and score"
    assert f"note on {names[1]}: {note}" in printed and f"{names[1]}: {note}" in (out / "report.md").read_text()


def test_one_patient_has_values_but_no_intervals(run, files, tmp_path):
    annotations, _, (truth, a, b) = files
    for image in annotations["images"]:
        image["patient_id"] = "p1"
    truth.write_text(json.dumps(annotations))
    out = tmp_path / "out"
    printed = run("evaluate", "--annotations", truth, "--predictions", a, "--compare", b, "--out", out, "--no-report")
    assert "(no interval)" in printed
    evaluation = json.loads((out / "evaluation.json").read_text())
    for summary in evaluation["models"].values():
        for estimates in (*summary["metrics"].values(), *(row["metrics"] for row in summary["subgroups"])):
            assert all(one["low"] is None and one["high"] is None for one in estimates.values())
        assert summary["metrics"]["bbox"]["AP50"]["value"] > 0
        assert summary["counts"]["bbox"]["all"]["interval"] == {c: [None, None] for c in ("tp", "fp", "fn")}
    for name in ("report.md", "report.html"):
        text = (out / name).read_text()
        assert "No intervals: they come from resampling patients and need two" in text
        assert "but the images belong to one patient" in text
        assert "strong against weak: not tested, fewer than two patients" in text
        assert "Intervals are 95 %" not in text


def test_nothing_predicted_and_nothing_to_find(run, files, tmp_path):
    annotations, _, (truth, _, _) = files
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    run("evaluate", "--annotations", truth, "--predictions", empty, "--out", tmp_path / "none", "--resamples", 10)
    assert json.loads((tmp_path / "none" / "metrics.json").read_text())["bbox_iobb"]["AP50"] == 0
    truth.write_text(json.dumps({**annotations, "annotations": []}))
    run("evaluate", "--annotations", truth, "--predictions", empty, "--compare", empty, "--names", "A", "B",
        "--out", tmp_path / "healthy", "--resamples", 10)  # fmt: skip
    metrics = json.loads((tmp_path / "healthy" / "metrics.json").read_text())
    assert metrics["bbox_iobb"]["AP50"] is None and metrics["comparison"]["verdict"] == "not tested"
    assert "not defined" in (tmp_path / "healthy" / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--area", "huge"], "--area huge: give one of all, small, medium, large"),
        (["--area", "9", "3"], "0 ≤ LOW < HIGH"),
        (["--sweep", "0.9", "0.5", "0.1"], "--sweep 0.9 0.5 0.1: give 0 ≤ FROM < TO ≤ 1"),
        (["--names", "A", "B"], "--names needs 1 different name"),
        (["--predictions", "absent.json"], "absent.json: cannot be read"),
        (["--weights", "absent.pth"], "no checkpoint at absent.pth"),
    ],
)
def test_mistakes_are_told_in_one_line(run, files, tmp_path, options, message):
    _, _, (truth, a, _) = files
    with pytest.raises(SystemExit, match=message):
        run("evaluate", "--annotations", truth, "--predictions", a, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
