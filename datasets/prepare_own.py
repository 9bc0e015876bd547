#!/usr/bin/env python3
"""Prepare your own images (DICOM too), boxes and table of clinical values.

python datasets/prepare_own.py --annotations boxes.json --images scans/ --table labs.csv --key File --out datasets/mine
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare own")
