"""The benchmark: what it measures of a small config, and its table."""

import io
import json

import benchmark
import pytest
from make_model_zoo import costs_table

from mdf_detectron.errors import UserError

CONFIG = "synthetic_cxr/mdf_net.yaml"
SMALL = ["INPUT.IMAGE_SIZE", "64", "SOLVER.IMS_PER_BATCH", "2"]


@pytest.mark.parametrize("measure", ["step", "image"])
def test_steps_are_measured(measure, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    benchmark.main(["--worker", measure, CONFIG, *SMALL])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 2 and all(0 < one["seconds"] < 60 and one["bytes"] >= 0 for one in answers)


def test_what_cannot_be_measured_says_why(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    benchmark.main(["--worker", "loading", CONFIG, "DATASETS.TRAIN", "('nobody_train',)"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert "nobody_train" in error and "\n" not in error
    with pytest.raises(UserError, match="no config file at 'nope.yaml'"):
        benchmark.main(["nope.yaml"])


def test_the_table_has_quartiles_ratios_and_errors():
    rows = [
        {"config": "a", "measure": "step", "seconds": [1.0, 2.0, 3.0], "bytes": 5 << 20},
        {"config": "b", "measure": "step", "seconds": [0.5, 1.0, 1.5], "bytes": None},
        {"config": "b", "measure": "loading", "seconds": [], "bytes": None, "error": "no data"},
    ]
    _, _, *lines = benchmark.table(rows).splitlines()
    assert lines[0] == "| training step | a | 2.000 (1.000 to 3.000) | 1.00 | 5 |"
    assert lines[1] == "| training step | b | 1.000 (0.500 to 1.500) | 0.50 |  |"
    assert "not measured: no data" in lines[2]


def test_the_costs_of_a_config_become_a_row_of_the_zoo(monkeypatch):
    seconds = {CONFIG: [0.2, 0.4, 0.6], benchmark.REFERENCE: [0.4, 0.8, 1.2]}
    rows = {"step": seconds, "image": {CONFIG: [0.1, 0.1]}}
    monkeypatch.setattr(benchmark, "measure", lambda what, configs, *_: [{"seconds": rows[what][c]} for c in configs])
    found = benchmark.costs([CONFIG], benchmark.REFERENCE, rounds=3, threads=1)
    row = found[CONFIG]
    assert (row["px"], row["batch"], row["ratio"], row["training_images_per_second"]) == (128, 4, 0.5, 10)
    speeds = {"rows": found, "machine": "m", "commit": "c", "reference": benchmark.REFERENCE, "rounds": 3}
    assert f"| `{CONFIG}` | 128 | {row['parameters'] / 1e6:.2f} | 0.40 | 0.50 | 10.0 | 10.0 |" in costs_table(speeds)
