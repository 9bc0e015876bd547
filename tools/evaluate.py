#!/usr/bin/env python3
"""Score saved predictions (COCO results format, of any tool), and compare two models on the same images.

    tools/evaluate.py --dataset synthetic_cxr_test --predictions A.json --out DIR
    tools/evaluate.py --annotations test.json --predictions A.json --compare B.json --out DIR

Writes DIR/metrics.json, DIR/evaluation.json (everything, for tools/plot_results.py), DIR/tables/*.csv,
DIR/figures/*.png, DIR/report.md and DIR/report.html.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("evaluate")
