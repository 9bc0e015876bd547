"""The benchmark of the clinical branch, at a size that takes seconds."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import benchmark
import pytest
from benchmarks import variants

TOOLS = sorted(Path(benchmark.__file__).parent.glob("benchmark*.py"))


@pytest.fixture
def small_branch(monkeypatch):
    small = ("MODEL.SPATIALIZER.NUM_STAGES", 6, "MODEL.SPATIALIZER.CHANNELS", 8)
    for name in ("plain", "deconv"):
        monkeypatch.setitem(
            variants.VARIANTS, name, replace(variants.VARIANTS[name], opts=(*variants.VARIANTS[name].opts, *small))
        )


def test_it_measures_every_kind_of_ratio(tmp_path, small_branch):
    out = tmp_path / "benchmark.json"
    # no bfloat16: a processor without its arithmetic takes minutes for a step
    benchmark.main(
        ["--device", "cpu", "--allocator", "default", "--image-size", "64", "--batch-size", "2", "--rounds", "1",
         "--threads", "1", "--out", str(out), "--variants", "plain", "deconv", "image_only", "compact"]
    )  # fmt: skip
    record = json.loads(out.read_text())
    assert record["limit"]["seconds"] > 0
    assert set(record["bytes"]) == {"plain", "deconv"} and record["bytes"]["plain"] > 2**20
    assert all(len(times) == 1 for times in record["seconds"]["training step"].values())
    rows = [line for line in record["table"] if "reached" in line or "missed" in line]
    assert len(rows) == 5, record["table"]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_threads_wait_as_in_trainings(tool):
    """OpenMP reads how when torch is loaded: behind it ``import mdf_detectron`` changes nothing."""
    imported = []
    for node in ast.parse(tool.read_text()).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            imported += [name.split(".")[0] for name in names]
    assert not {"torch", "timm", "detectron2"} & set(imported[: imported.index("mdf_detectron")])
