#!/usr/bin/env python3
"""Make the embedded synthetic data set: radiographs whose findings only the clinical record can tell apart.

python datasets/prepare_synthetic.py --out datasets/synthetic_cxr --num-patients 600 --seed 1 --signal 1.0
python datasets/prepare_synthetic.py --out output/raw --num-patients 200 --seed 1 --raw   # as PhysioNet's files
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare synthetic")
