"""tools/benchmark_evaluation.py in small: it measures what it says, and the loops agree."""

import json


def test_small(run, tmp_path):
    out = tmp_path / "benchmark.json"
    printed = run("benchmark_evaluation", "--num-images", 160, "--resamples", 20, "--out", out)
    found = json.loads(out.read_text())
    assert found["loops"]["images"] == 160 and 1200 < found["loops"]["detections"] < 2000  # about 10 an image
    assert found["loops"]["largest_difference"] < 1e-9
    assert found["loops"]["ratio"] > 2
    assert found["bootstrap"]["resamples"] == 20 and found["bootstrap"]["images"] == 16
    assert [r["images"] for r in found["growth"]] == [10, 40, 160]
    assert "times faster" in printed and "×16" in printed
