#!/usr/bin/env python3
"""Parameters, floating-point operations and activation memory of a model, part by part (the paper's complexity table).

Operations are fvcore's count (a multiply-add is one) of one image through the model in evaluation; activations are the
output elements of its convolutions and products, in MiB of float32.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("analyze")
