"""The table of every config's speed: what is measured, its cells, and the page that it is put on."""

import json

import benchmark_configs
import pytest

from mdf_detectron.errors import ConfigError
from mdf_detectron.fileio import replace_marked

CONFIG = "synthetic_cxr/mask_rcnn.yaml"


def test_a_config_is_measured_and_put_on_the_page(tmp_path):
    page, out = tmp_path / "page.md", tmp_path / "speeds.json"
    page.write_text("before\n<!-- made by tools/benchmark_configs.py: begin -->\nold\n<!-- speeds end -->\nafter\n")
    arguments = ["--configs", CONFIG, "--reference", CONFIG, "--rounds", "1", "--threads", "1"]
    benchmark_configs.main([*arguments, "--out", str(out), "--page", str(page)])
    row = json.loads(out.read_text())["rows"][CONFIG]
    assert (row["px"], row["batch"]) == (128, 4) and 300_000 < row["parameters"] < 2_000_000
    assert row["training_images_per_second"] == pytest.approx(4 / row["step_seconds"])
    assert row["ratio"] > 0 and row["prediction_images_per_second"] > 0
    text = page.read_text()
    assert "old" not in text and f"| `{CONFIG}` | 128 | 4 |" in text
    assert text.startswith("before\n") and text.endswith("-->\nafter\n")


def test_an_unknown_config_is_one_line():
    with pytest.raises(ConfigError, match=rf"\['nope.yaml'\] are not below configs/; there are .*{CONFIG}"):
        benchmark_configs.main(["--configs", "nope.yaml"])


def test_a_page_that_cannot_take_the_table_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_configs, "Worker", None)  # whoever measures ends in a TypeError
    page = tmp_path / "page.md"
    with pytest.raises(ConfigError, match="page.md"):
        benchmark_configs.main(["--page", str(page)])
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="page.md lacks the marks"):
        benchmark_configs.main(["--page", str(page)])


def test_a_page_without_marks():
    with pytest.raises(ValueError, match="lacks the marks '<b>' and '<e>'"):
        replace_marked("only <b>", "<b>", "<e>", "x")
