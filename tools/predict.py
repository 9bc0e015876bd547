#!/usr/bin/env python3
"""Predict new studies from a checkpoint alone; see mdf_detectron/cli/predict.py, or --help."""

from mdf_detectron.cli.predict import main
from mdf_detectron.engine.defaults import run_tool

if __name__ == "__main__":
    run_tool(main)
