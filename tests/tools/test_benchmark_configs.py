"""The speed of every config: what is measured, and the results that the tables are made from."""

import json

import benchmark_configs
import pytest
from make_model_zoo import costs_table

from mdf_detectron.errors import ConfigError

CONFIG = "synthetic_cxr/mask_rcnn.yaml"


def test_a_config_is_measured_and_its_table_made(tmp_path):
    out = tmp_path / "speeds.json"
    arguments = ["--configs", CONFIG, "--reference", CONFIG, "--rounds", "1", "--threads", "1"]
    benchmark_configs.main([*arguments, "--out", str(out)])
    found = json.loads(out.read_text())
    row = found["rows"][CONFIG]
    assert (row["px"], row["batch"]) == (128, 4) and 300_000 < row["parameters"] < 2_000_000
    assert row["training_images_per_second"] == pytest.approx(4 / row["step_seconds"])
    assert row["ratio"] > 0 and row["prediction_images_per_second"] > 0
    assert f"| `{CONFIG}` | 128 | {row['parameters'] / 1e6:.2f} |" in costs_table(found)


def test_an_unknown_config_is_one_line():
    with pytest.raises(ConfigError, match=rf"\['nope.yaml'\] are not below configs/; there are .*{CONFIG}"):
        benchmark_configs.main(["--configs", "nope.yaml"])
