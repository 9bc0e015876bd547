#!/usr/bin/env python3
"""Prepare MS-CXR (boxes of report phrases) with MIMIC's triage values (credentialed PhysioNet access).

python datasets/prepare_ms_cxr.py --root PHYSIONET_ROOT --out datasets/ms_cxr --image-size 512
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare ms-cxr")
