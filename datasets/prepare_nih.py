#!/usr/bin/env python3
"""Prepare NIH ChestX-ray14 with its list of boxes (eight findings; age, sex and view).

python datasets/prepare_nih.py --root NIH_ROOT --out datasets/nih --image-size 512
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare nih")
