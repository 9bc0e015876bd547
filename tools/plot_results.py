#!/usr/bin/env python3
"""Draw the charts and write the report of an evaluation again, or the curves of a training run.

    tools/plot_results.py --evaluation DIR [--training RUN/metrics.json]    charts and report below DIR
    tools/plot_results.py --training RUN/metrics.json --out DIR             losses and train-against-test curves only

DIR is what tools/evaluate.py wrote: precision and recall, FROC, threshold sweep, counts, confusion, subgroups.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("plot")
