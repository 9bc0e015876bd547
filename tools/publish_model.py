#!/usr/bin/env python3
"""Make one file to hand on from a training checkpoint; see mdf_detectron/cli/publish.py, or --help."""

from mdf_detectron.cli.publish import main
from mdf_detectron.engine.defaults import run_tool

if __name__ == "__main__":
    run_tool(main)
