#!/usr/bin/env python3
"""Prepare MIMIC chest radiographs with triage records and readers' boxes (credentialed PhysioNet access).

python datasets/prepare_mimic_eye.py --physionet ROOT --out datasets/mimic_eye
python datasets/prepare_mimic_eye.py --mimic-eye ROOT --out datasets/mimic_eye --image-size 512
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare mimic-eye")
