#!/usr/bin/env python3
"""Make one file to hand on from a training checkpoint, and a model card beside it.

The same as `mdf publish`; --help says more.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("publish")
