"""The benchmark of the clinical branch, at a size that takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"


def test_it_measures_every_kind_of_ratio(tmp_path):
    out = tmp_path / "benchmark.json"
    variants = ["plain", "deconv", "deconv_bfloat16", "image_only", "compact"]
    arguments = ["--image-size", "64", "--batch-size", "2", "--rounds", "1", "--threads", "1", "--out", str(out)]
    result = subprocess.run(
        [sys.executable, str(TOOL), "--device", "cpu", *arguments, "--variants", *variants],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    record = json.loads(out.read_text())
    assert record["limit"]["seconds"] > 0
    assert set(record["bytes"]) == {"plain", "deconv"} and record["bytes"]["plain"] > 2**20
    assert all(len(times) == 1 for times in record["seconds"]["training step"].values())
    rows = [line for line in record["table"] if "reached" in line or "missed" in line]
    assert len(rows) == 6, record["table"]
