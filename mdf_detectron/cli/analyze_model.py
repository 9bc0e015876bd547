"""Count a model's parameters, operations and activation memory, part by part (the paper's complexity table).

Operations are fvcore's count (a multiply-add is one) of one image through the model in evaluation; activations are the
output elements of its convolutions and products, in MiB of float32.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from mdf_detectron.cli.arguments import config_file


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, nargs="+", type=config_file, metavar="FILE")
    parser.add_argument("--depth", type=int, default=2, help="how many dots a part's name may have, plus one")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="last: config overrides, KEY VALUE")
    args = parser.parse_args(argv)
    from mdf_detectron.config_file import load_config
    from mdf_detectron.modeling.complexity import analyze, complexity_table

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    wholes = []
    for file in args.config_file:
        parts = analyze(load_config(file, ["MODEL.DEVICE", "cpu", *args.opts]), args.depth)
        wholes.append(replace(parts[0], name=Path(file).stem))
        print(f"{file}\n\n{complexity_table(parts)}")
    if len(wholes) > 1:
        print(complexity_table(wholes))
