#!/usr/bin/env python3
"""Draw what the mapper feeds the model: image, boxes, masks and the clinical record.

tools/visualize_data.py --config-file configs/synthetic_cxr/mdf_net.yaml --out output/look --num-images 8
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("visualize")
