#!/usr/bin/env python3
"""Describe a prepared folder as one page: boxes, columns, associations, images that look alike.

python tools/describe_dataset.py datasets/mine --out output/mine.html
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("describe")
