"""Prepare NIH ChestX-ray14 with its list of boxes (eight findings; age, sex and view).

python datasets/prepare_nih.py --root NIH_ROOT --out datasets/nih --image-size 512
"""

from __future__ import annotations

from mdf_detectron.cli.prepare_public import prepare
from mdf_detectron.data.sources.nih import read_nih


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    prepare(__doc__, "Data_Entry_2017_v2020.csv, BBox_List_2017.csv and images/ lie there", read_nih, argv)
