#!/usr/bin/env python3
"""Prepare PadChest-GR (findings of reports with boxes; age and sex).

python datasets/prepare_padchest_gr.py --root PADCHEST_GR_ROOT --out datasets/padchest_gr --image-size 512
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare padchest-gr")
