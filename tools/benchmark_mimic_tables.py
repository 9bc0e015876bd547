#!/usr/bin/env python3
"""Time and peak memory of the table part of the MIMIC pipeline, on synthetic tables that grow ×1, ×4, ×16.

python tools/benchmark_mimic_tables.py --out output/benchmark_tables    # ×16 is the real size, 377,110 films
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

from mdf_detectron.data.mimic.cohort import read_cohort
from mdf_detectron.data.mimic.layout import physionet_files
from mdf_detectron.data.mimic.options import MimicOptions
from mdf_detectron.data.mimic.problems import Problems
from mdf_detectron.data.prepared_folder import Flow, markdown_table
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.raw.settings import FILMS_PER_PATIENT, RawSettings
from mdf_detectron.data.synthetic.raw.tree import write_raw_tree

REAL_SIZE = 377_110
FACTORS = (1, 4, 16)


def measure(root: str) -> tuple[float, float, int]:
    """Seconds, peak resident memory in GiB, and kept readings of the table part; in a process of its own."""
    begin = time.perf_counter()
    cohort = read_cohort(physionet_files(root), MimicOptions(), Problems(), Flow())
    seconds = time.perf_counter() - begin
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, len(cohort.readings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="output/benchmark_tables", help="folder for the tables and the result")
    parser.add_argument("--num-films", type=int, default=-(-REAL_SIZE // 16), help="films at ×1")
    args = parser.parse_args()
    out, rows = Path(args.out), []
    for factor in FACTORS:
        films = args.num_films * factor
        tree = out / f"films_{films}"
        cohort = CohortSettings(max(16, round(films / FILMS_PER_PATIENT)), seed=1)
        write_raw_tree(tree, RawSettings(cohort, films, tables_only=True))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, memory, readings = pool.apply(measure, (str(tree / "physionet"),))
        rows.append({"factor": factor, "films": films, "seconds": seconds, "peak_gib": memory, "readings": readings})
    (out / "result.json").write_text(json.dumps(rows, indent=2) + "\n")
    table = [
        (f"×{r['factor']}", f"{r['films']:,}", r["readings"], f"{r['seconds']:.1f}", f"{r['peak_gib']:.2f}")
        for r in rows
    ]
    print(markdown_table(("size", "films", "readings kept", "seconds", "peak memory, GiB"), table))


if __name__ == "__main__":
    main()
