#!/usr/bin/env python3
"""Time and peak memory of the table part of the MIMIC pipeline, on synthetic tables that grow ×1, ×4, ×16.

python tools/benchmark_mimic_tables.py --out output/benchmark_tables    # ×16 is the real size, 377,110 images
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time
from pathlib import Path

from raw_mimic.history import RADIOGRAPHS_PER_PATIENT, RawSettings
from raw_mimic.tree import write_raw_tree

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.values import ProblemList
from mdf_detectron.data.sources.mimic.cohort import read_cohort
from mdf_detectron.data.sources.mimic.layout import physionet_files
from mdf_detectron.data.sources.mimic.options import MimicOptions
from mdf_detectron.data.sources.mimic.readings import read_readings
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.fileio import markdown_table

REAL_SIZE = 377_110
FACTORS = (1, 4, 16)
LIMIT_SECONDS, LIMIT_GB = 60, 3
COLUMNS = {
    "images": "rows of the table of images",
    "visits": "rows of the table of visits",
    "patients": "rows of the table of patients",
    "readings": "rows of the readers' metadata",
    "ellipses": "rows of the ellipse files",
}
"""Column of the result → the stage of the flow that counts it."""


def measure(root: str) -> dict[str, float]:
    """Seconds, peak resident memory (GB, 10^9 bytes) and rows of the table part; in a process of its own."""
    flow, begin = Flow(), time.perf_counter()
    files = physionet_files(root)
    cohort = read_cohort(files, MimicOptions(), ProblemList(), flow)
    seconds = time.perf_counter() - begin
    # of this program alone: getrusage also counts what the parent held when it started this process
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9
    rows = {s["stage"]: s["in"] for s in flow.stages}
    sizes = {name: rows[stage] for name, stage in COLUMNS.items()}
    read = read_readings(files.readings, ProblemList(), Flow())["dicom_id"].nunique()
    return {**sizes, "annotated images": read, "readings kept": len(cohort.readings), "seconds": seconds, "GB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="output/benchmark_tables", help="folder for the tables and the result")
    parser.add_argument("--num-images", type=int, default=-(-REAL_SIZE // 16), help="images at ×1")
    args = parser.parse_args()
    out, rows = Path(args.out), []
    for factor in FACTORS:
        radiographs = args.num_images * factor
        tree = out / f"films_{radiographs}"
        cohort = CohortSettings(max(16, round(radiographs / RADIOGRAPHS_PER_PATIENT)), seed=1)
        write_raw_tree(tree, RawSettings(cohort, radiographs, tables_only=True))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append({"factor": factor, **pool.apply(measure, (str(tree / "physionet"),))})
    (out / "result.json").write_text(json.dumps(rows, indent=2) + "\n")
    header = ("size", *list(rows[0])[1:-2], "seconds", "peak memory, GB")
    table = [(f"×{r['factor']}", *(f"{n:,}" for n in list(r.values())[1:-2]), f"{r['seconds']:.1f}", f"{r['GB']:.2f}")
             for r in rows]  # fmt: skip
    print(markdown_table(header, table))
    met = all(r["seconds"] <= LIMIT_SECONDS and r["GB"] <= LIMIT_GB for r in rows)
    print(f"limits of {LIMIT_SECONDS} s and {LIMIT_GB} GB: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
