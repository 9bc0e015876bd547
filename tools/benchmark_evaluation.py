#!/usr/bin/env python3
"""Speed of the evaluation: against plain loops, of the bootstrap, and as the number of images grows ×1, ×4, ×16.

python tools/benchmark_evaluation.py --out output/benchmark_evaluation.json
"""

from __future__ import annotations

import argparse
import timeit
from pathlib import Path

import numpy as np
from benchmarks.evaluation_loops import loop_ap_ar
from benchmarks.interval_study import simulate

from mdf_detectron.evaluation.average_precision import average_precision
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import COCO_THRESHOLDS, match
from mdf_detectron.evaluation.metrics import metric_values
from mdf_detectron.evaluation.statistics import bootstrap, patients_of
from mdf_detectron.fileio import markdown_table, write_json

DETECTIONS = 2.0 - 0.255
"""False positives an image and class, so that an image has about 10 detections of 5 classes."""


def timed(function, repeats: int = 9):
    """The value, and the shortest of the times, as timeit takes it: other work on the machine only adds to them."""
    return function(), min(timeit.repeat(function, number=1, repeat=repeats))


def iobb_metrics(annotations, predictions):
    """(T, K) AP and AR by IoBB from the JSON content: loading and checking are in the time."""
    truth = GroundTruth.load(annotations)
    return average_precision(match(truth, Detections.load(predictions, truth), overlap="iobb"))


def against_loops(num_images: int) -> dict:
    """The loops take the JSON content as it is: the evaluation is timed with loading and checking it, and without."""
    annotations, (predictions,) = simulate(num_images, 0, false_positives=DETECTIONS)
    (ap, ar), whole = timed(lambda: iobb_metrics(annotations, predictions))
    truth = GroundTruth.load(annotations)
    found = Detections.load(predictions, truth)
    _, fast = timed(lambda: average_precision(match(truth, found, overlap="iobb")))
    loops, slow = timed(lambda: loop_ap_ar(annotations, predictions, COCO_THRESHOLDS), repeats=3)
    difference = float(np.nanmax(np.abs(np.stack([ap, ar], axis=-1) - np.array(loops))))
    return {"images": num_images, "detections": len(predictions), "seconds": fast, "seconds_with_loading": whole,
            "loop_seconds": slow, "ratio": slow / fast, "ratio_with_loading": slow / whole,
            "largest_difference": difference}  # fmt: skip


def of_bootstrap(num_images: int, resamples: int) -> dict:
    annotations, (predictions,) = simulate(num_images, 1, false_positives=DETECTIONS)
    truth = GroundTruth.load(annotations)
    matches = match(truth, Detections.load(predictions, truth), overlap="iobb")
    _, seconds = timed(lambda: bootstrap(lambda w: metric_values(matches, w)[1], patients_of(truth), resamples), 1)
    return {"images": num_images, "resamples": resamples, "seconds": seconds}


def growth(num_images: int) -> list[dict]:
    rows = []
    for factor in (1, 4, 16):
        annotations, (predictions,) = simulate(num_images * factor, 2, false_positives=DETECTIONS)
        _, seconds = timed(lambda a=annotations, p=predictions: iobb_metrics(a, p))
        rows.append({"factor": factor, "images": num_images * factor, "seconds": seconds})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("output/benchmark_evaluation.json"))
    parser.add_argument("--num-images", type=int, default=10_000, help="against the loops (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    annotations, (predictions,) = simulate(50, 0)
    iobb_metrics(annotations, predictions)  # libraries are loaded before anything is timed
    result = {
        "loops": against_loops(args.num_images),
        "bootstrap": of_bootstrap(max(10, args.num_images // 10), args.resamples),
        "growth": growth(max(10, args.num_images // 16)),
    }
    write_json(args.out, result)
    loops, resampled = result["loops"], result["bootstrap"]
    print(
        f"IoBB AP and AR of {loops['images']:,} images, {loops['detections']:,} detections: plain loops "
        f"{loops['loop_seconds']:.2f} s, evaluation {loops['seconds']:.3f} s ({loops['ratio']:.0f} times faster), with "
        f"loading and checking the JSON content {loops['seconds_with_loading']:.2f} s "
        f"({loops['ratio_with_loading']:.0f} times); equal to {loops['largest_difference']:.1e}"
    )
    print(f"bootstrap, {resampled['resamples']} resamples of {resampled['images']:,} images, all metrics: "
          f"{resampled['seconds']:.1f} s\n")  # fmt: skip
    rows = [(f"×{r['factor']}", f"{r['images']:,}", f"{r['seconds']:.3f}", f"{1e6 * r['seconds'] / r['images']:.0f}")
            for r in result["growth"]]  # fmt: skip
    print(markdown_table(("size", "images", "seconds", "µs an image"), rows))


if __name__ == "__main__":
    main()
