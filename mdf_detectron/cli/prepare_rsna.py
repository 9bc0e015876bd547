"""Prepare the RSNA Pneumonia Detection Challenge (lung opacities; age, sex and view).

python datasets/prepare_rsna.py --root RSNA_ROOT --out datasets/rsna --image-size 512
"""

from __future__ import annotations

from mdf_detectron.cli.prepare_public import prepare
from mdf_detectron.data.sources.rsna import read_rsna


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    prepare(
        __doc__, "stage_2_train_labels.csv, stage_2_train_images/ and the mapping to NIH lie there", read_rsna, argv
    )
