#!/usr/bin/env python3
"""Parameters, floating-point operations and activation memory of a model, part by part (the paper's complexity table).

Operations are fvcore's count (a multiply-add is one) of one film through the model in evaluation; activations are the
output elements of its convolutions and products, in MiB of float32.
"""

from __future__ import annotations

import argparse
import logging

from mdf_detectron.complexity import analyze, complexity_table
from mdf_detectron.engine.defaults import load_config, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--depth", type=int, default=2, help="how many dots a part's name may have, plus one")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE")
    args = parser.parse_args()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    cfg = load_config(args.config_file, ["MODEL.DEVICE", "cpu", *args.opts])
    print(complexity_table(analyze(cfg, args.depth)))


if __name__ == "__main__":
    run_tool(main)
