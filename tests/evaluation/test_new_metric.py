"""AP25, appended to the list as one object, shows up wherever the other metrics do."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from simulated import simulate

from mdf_detectron.evaluation import CXREvaluator, evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.metrics import METRICS, Metric, ap
from mdf_detectron.evaluation.summary import Protocol, evaluate_models
from mdf_detectron.fileio import png_of, write_json
from mdf_detectron.report.charts import all_charts
from mdf_detectron.report.html import write_evaluation_report
from mdf_detectron.report.tables import build_tables

CLASSES = ("class 1", "class 2")
KEYS = {"AP25", *(f"AP25-{name}" for name in CLASSES)}


@pytest.fixture(scope="module", params=[True, False], ids=["with AP25", "without"])
def evaluated(request):
    """(is AP25 in the list, annotations, predictions of two models, evaluation); AP25 stays in the list meanwhile."""
    if request.param:
        METRICS.append(Metric("AP25", ap, (0.25,)))
    annotations, models = simulate(40, 3, skills=(0.5, 3.0), num_classes=2)
    for n, image in enumerate(annotations["images"]):
        image["clinical"] = {"gender": "FM"[n % 2]}
    truth = GroundTruth.load(annotations)
    loaded = {name: Detections.load(found, truth) for name, found in zip("AB", models, strict=True)}
    yield request.param, annotations, models, evaluate_models(truth, loaded, Protocol(num_resamples=20))
    if request.param:
        METRICS.pop()


def texts_of(figure):
    return {text.get_text() for axes in figure.axes for text in (axes.title, *axes.get_yticklabels())}


def test_evaluator_of_training(evaluated, tmp_path):
    listed, annotations, models, _ = evaluated
    DatasetCatalog.register("new_metric", lambda: [])
    MetadataCatalog.get("new_metric").set(json_file=str(write_json(tmp_path / "truth.json", annotations)))
    try:
        evaluator = CXREvaluator("new_metric", distributed=False)
        evaluator._predictions = {
            image["id"]: [p for p in models[1] if p["image_id"] == image["id"]] for image in annotations["images"]
        }
        found = evaluator.evaluate()
    finally:
        DatasetCatalog.remove("new_metric")
        MetadataCatalog.remove("new_metric")
    for table in ("bbox_iobb", "bbox"):
        assert (found[table].keys() >= KEYS) is listed
        assert found[table] == evaluate_coco(annotations, models[1])[table]


def test_intervals_paired_test_and_subgroups(evaluated):
    listed, _, _, evaluation = evaluated
    for summary in evaluation["models"].values():
        for estimates in summary["metrics"].values():
            assert (estimates.keys() >= KEYS) is listed
            for key in KEYS & estimates.keys():
                assert 0 <= estimates[key]["low"] <= estimates[key]["value"] <= estimates[key]["high"] <= 100
        assert all(("AP25" in row["metrics"]) is listed for row in summary["subgroups"]) and summary["subgroups"]
        sizes = [estimates["AP25"]["value"] >= estimates["AP50"]["value"] for estimates in summary["metrics"].values()
                 if "AP25" in estimates]  # fmt: skip
        assert all(sizes) and bool(sizes) is listed
    for rows in evaluation["comparison"]["differences"].values():
        assert (rows.keys() >= KEYS) is listed
        assert "AP25" not in rows or 0 < rows["AP25"]["p_value"] <= 1


def test_tables(evaluated):
    listed, _, _, evaluation = evaluated
    tables = {table.name: table for table in build_tables(evaluation)}
    for name in ("A_metrics_bbox_iobb", "B_metrics_bbox", "A_subgroups"):
        table = tables[name]
        assert ("AP25" in table.header) is listed
        assert {len(row) for row in table.rows} == {len(table.header)}
        if listed:
            assert all(" to " in row[table.header.index("AP25")] for row in table.rows)
    assert (KEYS <= {row[0] for row in tables["comparison_bbox"].rows}) is listed


def test_charts(evaluated):
    listed, _, _, evaluation = evaluated
    charts = all_charts(evaluation["models"])
    for name in ("metrics", "subgroups"):
        assert ("AP25" in texts_of(charts[name])) is listed
        assert png_of(charts[name]).startswith(b"\x89PNG")


def test_report(evaluated, tmp_path):
    listed, _, _, evaluation = evaluated
    write_evaluation_report(tmp_path, evaluation, all_charts(evaluation["models"]))
    assert ("<th>AP25</th>" in (tmp_path / "report.html").read_text()) is listed
    assert ("| AP25 |" in (tmp_path / "report.md").read_text()) is listed


def test_evaluate_tool(evaluated, run, tmp_path):
    listed, annotations, models, _ = evaluated
    files = [tmp_path / name for name in ("truth.json", "A.json", "B.json")]
    for path, data in zip(files, (annotations, *models), strict=True):
        write_json(path, data)
    out = tmp_path / "out"
    run("evaluate", "--annotations", files[0], "--predictions", files[1], "--compare", files[2], "--out", out,
        "--resamples", 20)  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    for found in (metrics["bbox_iobb"], metrics["compare"]["bbox"], metrics["comparison"]["differences"]["bbox"]):
        assert (found.keys() >= KEYS) is listed
    assert ("AP25" in (out / "tables" / "A_metrics_bbox.csv").read_text()) is listed
