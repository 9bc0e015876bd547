#!/usr/bin/env python3
"""Prepare the RSNA Pneumonia Detection Challenge (lung opacities; age, sex and view).

python datasets/prepare_rsna.py --root RSNA_ROOT --out datasets/rsna --image-size 512
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare rsna")
