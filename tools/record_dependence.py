#!/usr/bin/env python3
"""Does a trained model read the table?  Its score when a column belongs to another patient, or rows are taken away.

python tools/record_dependence.py --config-file configs/synthetic_cxr/mdf_net.yaml --out output/rows \
    MODEL.WEIGHTS output/synthetic_cxr/mdf_net/model_final.pth
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("record-dependence")
