#!/usr/bin/env python3
"""One model trained with several seeds, or two: mean, spread and interval over the seeds, and the difference.

    tools/compare_seeds.py --results A1/results.json A2/results.json A3/results.json --out DIR
    tools/compare_seeds.py --results A*/results.json --against B*/results.json --names mask_rcnn mdf_net --out DIR

The files are results.json of tools/train_net.py, or metrics.json of tools/evaluate.py, one a seed, on the same test
split.  Writes DIR/seeds.json, seeds.md, seeds.csv and seeds.png.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("compare-seeds")
