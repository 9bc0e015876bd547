#!/usr/bin/env python3
"""Prepare VinDr-CXR in the layout of Kaggle or PhysioNet (age and sex).

python datasets/prepare_vindr.py --root VINDR_ROOT --out datasets/vindr --image-size 512 --readers fuse
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare vindr")
