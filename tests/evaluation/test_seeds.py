import json

import numpy as np
import pytest
from scipy import stats

from mdf_detectron.errors import UserError
from mdf_detectron.evaluation.statistics import difference_over_seeds, flat_metrics, mean_over_seeds
from mdf_detectron.report.seeds import read_runs, seed_chart, seed_table, summarize_seeds


def test_mean_by_hand():
    """1, 2, 3: standard deviation 1, t(0.975, 2) = 4.3027."""
    summary = mean_over_seeds([1.0, 2.0, 3.0])
    assert (summary["mean"], summary["std"], summary["runs"]) == (2.0, 1.0, 3)
    assert summary["high"] - 2 == pytest.approx(4.302653 / np.sqrt(3))
    single = mean_over_seeds([5.0])
    assert single["mean"] == 5 and np.isnan(single["low"])
    with pytest.raises(ValueError, match="no runs"):
        mean_over_seeds([])


def test_difference_equals_welch():
    rng = np.random.default_rng(0)
    for a, b in ((3, 5), (2, 2), (4, 3)):
        first, second = rng.normal(20, 1, a), rng.normal(23, 3, b)
        found = difference_over_seeds(first, second)
        known = stats.ttest_ind(second, first, equal_var=False)
        low, high = known.confidence_interval(0.95)
        assert (found["low"], found["high"]) == pytest.approx((low, high))
        assert found["p_value"] == pytest.approx(known.pvalue)
        assert found["value"] == pytest.approx(second.mean() - first.mean())
    assert np.isnan(difference_over_seeds([1.0], [2.0, 3.0])["low"])
    assert difference_over_seeds([1.0, 1.0], [2.0, 2.0]) == {"value": 1, "low": 1, "high": 1, "p_value": 0}
    with pytest.raises(ValueError, match="no runs"):
        difference_over_seeds([], [1.0])


def test_intervals_over_seeds_hold_the_truth():
    """Of 2,000 triples of runs 95 % have the true mean in their interval."""
    runs = np.random.default_rng(1).normal(10, 2, (2000, 3))
    held = [s["low"] <= 10 <= s["high"] for s in map(mean_over_seeds, runs)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def write(folder, name, value, extra=None):
    path = folder / f"{name}.json"
    table = {"AP50": value, "AR50": value + 10, "AP50-rare": extra}
    path.write_text(json.dumps({"bbox_iobb": table, "bbox": {"AP50": value - 5}, "comparison": {"verdict": "helps"}}))
    return path


def test_summary_of_files(tmp_path):
    first = read_runs([write(tmp_path, f"a{i}", 20.0 + i, extra=1.0) for i in range(3)])
    second = read_runs([write(tmp_path, f"b{i}", 30.0 + i) for i in range(2)])
    summary = summarize_seeds({"A": first, "B": second})
    assert list(summary["models"]["A"]) == ["bbox_iobb/AP50", "bbox_iobb/AR50", "bbox/AP50"]
    assert summary["left_out"] == ["bbox_iobb/AP50-rare"]
    assert summary["models"]["A"]["bbox_iobb/AP50"]["values"] == [20, 21, 22]
    assert summary["differences"]["bbox/AP50"]["value"] == pytest.approx(9.5)
    table = seed_table(summary)
    assert table.rows[0][:2] == ["bbox_iobb/AP50", "21.0 ± 1.0 (18.5 to 23.5)"]
    assert table.rows[0][3].startswith("+9.5 (") and table.note.startswith("A: 3 runs, B: 2 runs")
    assert len(seed_chart(summary, ["bbox_iobb/AP50", "absent"]).axes[0].get_yticks()) == 1
    alone = seed_table(summarize_seeds({"A": first[:1]}))
    assert alone.rows[0] == ["bbox_iobb/AP50", "20.0 (1 run)"]


def test_bad_files(tmp_path):
    path = write(tmp_path, "a", 20.0)
    with pytest.raises(UserError, match="a.json is given twice"):
        read_runs([path, path])
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="list.json: holds no metrics by table"):
        read_runs([tmp_path / "list.json"])
    (tmp_path / "log.json").write_text('{"iteration": 1, "total_loss": 2.0}')
    with pytest.raises(UserError, match="log.json: holds no metrics by table"):
        read_runs([tmp_path / "log.json"])
    (tmp_path / "lines.json").write_text('{"iteration": 1}\n{"iteration": 2}\n')
    with pytest.raises(UserError, match="lines.json: not JSON"):
        read_runs([tmp_path / "lines.json"])
    with pytest.raises(UserError, match="absent.json: cannot be read"):
        read_runs([tmp_path / "absent.json"])
    with pytest.raises(UserError, match="no metric is defined in all"):
        summarize_seeds({"A": [{"bbox/AP": 1.0}], "B": [{"segm/AP": 1.0}]})


def test_flat_metrics_leave_out_what_is_not_defined():
    assert flat_metrics({"bbox": {"AP": 1, "AP-x": None, "AR": float("nan")}, "iteration": 3}) == {"bbox/AP": 1.0}
