#!/usr/bin/env python3
"""Prepare the public covid-chestxray-dataset (boxes of the lungs, a few clinical columns).

python datasets/prepare_covid_chestxray.py --root COVID_CHESTXRAY_ROOT --out datasets/covid_cxr
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare covid")
