"""AP25, appended to the list as one object, shows up wherever the other metrics do."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from simulated import simulate

from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.evaluator import CXREvaluator
from mdf_detectron.evaluation.metrics import METRICS, Metric, ap
from mdf_detectron.fileio import write_json
from mdf_detectron.report.charts import all_charts

KEYS = {"AP25", "AP25-class 1", "AP25-class 2"}


@pytest.fixture
def data(tmp_path):
    """Annotations, predictions of two models, and their files; AP25 is in the list."""
    METRICS.append(Metric("AP25", ap, (0.25,)))
    annotations, models = simulate(40, 3, skills=(0.5, 3.0), num_classes=2)
    for n, image in enumerate(annotations["images"]):
        image["clinical"] = {"gender": "FM"[n % 2]}
    files = [
        write_json(tmp_path / f"{name}.json", one) for name, one in zip("TAB", (annotations, *models), strict=True)
    ]
    yield annotations, models, files
    METRICS.pop()


def test_evaluator_of_training(data):
    annotations, (_, found), (file, *_) = data
    DatasetCatalog.register("new_metric", lambda: [])
    MetadataCatalog.get("new_metric").set(json_file=str(file))
    try:
        evaluator = CXREvaluator("new_metric")
        evaluator._predictions = {
            image["id"]: [p for p in found if p["image_id"] == image["id"]] for image in annotations["images"]
        }
        tables = evaluator.evaluate()
    finally:
        DatasetCatalog.remove("new_metric")
        MetadataCatalog.remove("new_metric")
    for table in ("bbox_iobb", "bbox"):
        assert tables[table].keys() >= KEYS and tables[table] == evaluate_coco(annotations, found)[table]


def test_evaluation_and_its_report(data, run, tmp_path):
    _, _, (truth, first, second) = data
    out = tmp_path / "out"
    run("evaluate", "--annotations", truth, "--predictions", first, "--compare", second, "--out", out,
        "--resamples", 20)  # fmt: skip
    evaluation = json.loads((out / "evaluation.json").read_text())
    for summary in evaluation["models"].values():
        for estimates in summary["metrics"].values():
            for row in map(estimates.get, KEYS):
                assert 0 <= row["low"] <= row["value"] <= row["high"] <= 100
            assert estimates["AP25"]["value"] >= estimates["AP50"]["value"]
        assert summary["subgroups"] and all("AP25" in row["metrics"] for row in summary["subgroups"])
    for rows in evaluation["comparison"]["differences"].values():
        assert rows.keys() >= KEYS and 0 < rows["AP25"]["p_value"] <= 1
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["bbox_iobb"].keys() >= KEYS and metrics["compare"]["bbox"].keys() >= KEYS
    for name in ("A_metrics_bbox_iobb", "B_metrics_bbox", "A_subgroups"):
        header, *rows = (out / "tables" / f"{name}.csv").read_text().splitlines()
        assert "AP25" in header and all(row.split(",")[header.split(",").index("AP25")].count(" to ") for row in rows)
    assert "<th>AP25</th>" in (out / "report.html").read_text() and "| AP25 |" in (out / "report.md").read_text()
    charts = all_charts(evaluation["models"])
    for name in ("metrics", "subgroups"):
        assert "AP25" in {axes.title.get_text() for axes in charts[name].axes}
