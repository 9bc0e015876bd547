#!/usr/bin/env python3
"""Decode the images of a config's data sets once, for many trainings."""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("cache")
