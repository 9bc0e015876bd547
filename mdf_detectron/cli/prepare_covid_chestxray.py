"""Prepare the public covid-chestxray-dataset (boxes of the lungs, a few clinical columns).

python datasets/prepare_covid_chestxray.py --root COVID_CHESTXRAY_ROOT --out datasets/covid_cxr
"""

from __future__ import annotations

import argparse

from mdf_detectron.cli.prepare_public import announce
from mdf_detectron.data.sources.covid_chestxray import prepare_covid


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="copy of github.com/ieee8023/covid-chestxray-dataset")
    parser.add_argument("--out", required=True, help="the prepared folder to write")
    parser.add_argument("--seed", type=int, default=1, help="of the split by patient")
    parser.add_argument("--copy-images", action="store_true", help="copy the images instead of linking to them")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="at an unreadable image")
    parser.add_argument("--decimal-comma", action="store_true", help="numbers are written 38,1")
    args = vars(parser.parse_args(argv))
    root, out = args.pop("root"), args.pop("out")
    made = prepare_covid(root, out, **args)
    announce(out, made)
