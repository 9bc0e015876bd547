#!/usr/bin/env python3
"""Every fusion and every branch, trained on the synthetic set at one budget, and scored with full, half and no records.

python tools/study_fusions.py --out output/study --seeds 1 2

Trained runs are kept: the same command goes on where it was stopped.  Writes study.json, study.md and study.png.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("study-fusions")
