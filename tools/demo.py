#!/usr/bin/env python3
"""The demo: synthetic data, Mask R-CNN and MDF-Net trained and compared, oracle ceilings, pictures, a report."""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("demo")
