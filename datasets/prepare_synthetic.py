#!/usr/bin/env python3
"""Make the embedded synthetic data set: radiographs whose findings only the clinical record can tell apart.

python datasets/prepare_synthetic.py --out datasets/synthetic_cxr --num-patients 600 --seed 1 --signal 1.0
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare synthetic")
