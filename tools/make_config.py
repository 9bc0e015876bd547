#!/usr/bin/env python3
"""Propose a config for a prepared folder.

python tools/make_config.py datasets/mine --out configs/mine
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("init")
