#!/usr/bin/env python3
"""Predict new studies from a checkpoint alone: JSON, CSV, COCO results, pictures.

The same as `mdf predict`; --help says more.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("predict")
