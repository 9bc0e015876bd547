#!/usr/bin/env python3
"""Does a prepared folder leak between its splits, and is it sound?  Exit status 1 if anything is wrong.

python tools/audit_dataset.py datasets/mimic_eye
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("audit")
