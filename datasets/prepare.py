#!/usr/bin/env python3
"""Prepare a data set: the same as ``mdf prepare``."""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("prepare")
