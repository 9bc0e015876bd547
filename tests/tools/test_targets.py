"""The table of targets says what was reached; growth is a slope; rows are chosen by name."""

import numpy as np
import pytest
from benchmarks import growth, targets

from mdf_detectron.data.catalog import load_records
from mdf_detectron.data.schema import SCHEMA_FILE_NAME


def target(limit, ratios, at_least=False):
    return targets.Target("x", "a step", "another", limit, lambda rounds: np.array(ratios), at_least)


def test_a_ratio_is_reached_from_its_side():
    assert target(0.7, []).reached(0.7) and not target(0.7, []).reached(0.71)
    assert target(1.7, [], at_least=True).reached(1.7) and not target(1.7, [], at_least=True).reached(1.6)


def test_rows_have_quartiles_and_a_failing_one_is_named(monkeypatch):
    def fail(rounds):
        raise RuntimeError("no compiler")

    rows = (target(0.7, [0.5, 0.6, 0.9]), targets.Target("y", "b", "c", 20.0, fail, True))
    monkeypatch.setattr(targets, "TARGETS", rows)
    cells = targets.table_rows(targets.measure([], rounds=3))
    assert cells[0] == ("a step", "another", "≤ 0.7", "0.60 (0.55–0.75)", "reached")
    assert cells[1] == ("b", "c", "≥ 20", "", "not measured: no compiler")
    assert len(targets.measure(["y"], rounds=3)) == 1


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_is_measured_where_the_processor_has_it(monkeypatch, flag):
    run = targets._with_bfloat16(lambda rounds: np.ones(rounds))
    monkeypatch.setattr(targets.torch.cpu, "get_capabilities", lambda: {flag: True})
    assert len(run(3)) == 3
    monkeypatch.setattr(targets.torch.cpu, "get_capabilities", lambda: {flag: False, "avx2": True})
    with pytest.raises(RuntimeError, match="no bfloat16"):
        run(3)


def test_growth_is_the_slope_of_logarithms():
    assert growth.exponent((1, 10, 100), [2.0, 20.0, 200.0]) == pytest.approx(1)
    assert growth.exponent((1, 2, 4), [3.0, 12.0, 48.0]) == pytest.approx(2)


def test_a_catalog_can_be_read(tmp_path):
    growth.write_catalog(tmp_path, 3)
    records = load_records(tmp_path / "train.json", tmp_path, tmp_path / SCHEMA_FILE_NAME)
    assert [len(r["annotations"]) for r in records] == [2, 2, 2] and len(records[0]["clinical"]) == 9


def test_unknown_rows_are_one_line(run):
    with pytest.raises(SystemExit, match=r"error: --rows \['nope'\] are not known; there are \['step512'"):
        run("benchmark", "--targets", "--rows", "nope")
