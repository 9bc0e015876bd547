#!/usr/bin/env python3
"""Run the trainings of a plan and report them.

python tools/run_experiments.py does_it_help --dataset datasets/own --config own.yaml --out output/does_it_help
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("experiments")
