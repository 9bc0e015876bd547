"""Boundaries of tables: a newcomer's own data as a whole, and the records of new studies."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from fuzzing.boundary import Boundary, expect
from fuzzing.mutations import mutate_bytes, mutate_data, odd_value
from fuzzing.texts import SCHEMA, dump_json, dump_yaml, no_files, put, text_attacks
from mdf_detectron.data.annotations import read_annotations
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.own.options import OwnOptions, parse_columns
from mdf_detectron.data.sources.own.prepare import prepare_own
from mdf_detectron.data.study_records import RecordTable
from mdf_detectron.errors import DatasetError

COUNT = 6
HEADER = ["File", "MRN", "Age", "Sex", "Lactate", "Taken", "Drawn"]
ROWS = [[f"scan_{i}", f"{100 + i}", str(40 + i), "FM"[i % 2], f"{1 + i / 10:.1f}", "2020-01-02 10:00",
"2020-01-02 09:00"]
        for i in range(COUNT)]  # fmt: skip
EXPORT = {
    "images": [{"id": i, "file_name": f"scan_{i}.png", "width": 16, "height": 12} for i in range(COUNT)],
    "annotations": [{"id": i, "image_id": i, "category_id": i % 2, "bbox": [2, 2, 6, 5], "area": 30, "iscrowd": 0}
                    for i in range(COUNT)],
    "categories": [{"id": 0, "name": "opacity"}, {"id": 1, "name": "nodule"}],
}  # fmt: skip
BOXES = [
    ["image", "xmin", "ymin", "xmax", "ymax", "class"],
    *([f"scan_{i}.png", 2, 2, 8, 7, "opacity"] for i in range(COUNT)),
]
OPTIONS = OwnOptions(key="File", patient="MRN", time="Taken", record_time="Drawn", fractions=(0.34, 0.33, 0.33),
                     columns=parse_columns("Age:age Sex:sex Lactate:lactate"))  # fmt: skip


def _own_setup(folder: Path) -> Path:
    images = folder / "scans"
    images.mkdir()
    for i in range(COUNT):
        Image.fromarray(np.full((12, 16), 40 * i, np.uint8)).save(images / f"scan_{i}.png")
    return images


def table_file(folder: Path, suffix: str, rows: list[list[Any]]) -> Path:
    """Write a table of any kind."""
    path = folder / f"table{suffix}"
    if suffix in (".csv", ".tsv", ".csv.gz"):
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n").writerows(rows)
        content = text.getvalue().encode("utf-8", "replace")
        path.write_bytes(gzip.compress(content) if suffix == ".csv.gz" else content)
    else:
        frame = pd.DataFrame(rows[1:], columns=rows[0])
        frame.to_excel(path, index=False) if suffix == ".xlsx" else frame.astype(str).to_parquet(path, index=False)
    return path


def _odd_rows(rng: random.Random, rows: list[list[Any]]) -> list[list[Any]]:
    rows = [list(row) for row in rows]
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.choice(rows)
        change = rng.choice(("value", "value", "value", "short", "long", "double", "remove", "swap"))
        if change == "value" and row:
            value = odd_value(rng)
            row[rng.randrange(len(row))] = str(value)[:30_000] if isinstance(value, (list, dict, int)) else value
        elif change == "short" and row:
            row.pop()
        elif change == "long":
            row.append("x")
        elif change == "double":
            rows.append(list(row))
        elif change == "remove" and len(rows) > 1:
            rows.remove(row)
        else:
            rows[0], rows[-1] = rows[-1], rows[0]
    return rows


def _own_make(rng: random.Random, folder: Path, images: Path) -> dict[str, Any]:
    given: dict[str, Any] = {"annotations": put(folder, "boxes.json", dump_json(EXPORT)), "images": images,
                             "table": table_file(folder, ".csv", [HEADER, *ROWS])}  # fmt: skip
    what = rng.choice(("table", "table", "table", "boxes", "export", "schema", "images"))
    if what == "table":
        suffix = rng.choice((".csv", ".csv", ".tsv", ".csv.gz", ".xlsx", ".parquet"))
        try:
            given["table"] = table_file(folder, suffix, _odd_rows(rng, [HEADER, *ROWS]))
        except Exception:  # openpyxl and pyarrow write few odd values
            given["table"] = table_file(folder, suffix, [HEADER, *ROWS])
        if rng.random() < 0.4:
            given["table"].write_bytes(mutate_bytes(rng, given["table"].read_bytes()))
    elif what == "boxes":
        given["annotations"] = table_file(folder, ".csv", _odd_rows(rng, BOXES)).rename(folder / "boxes.csv")
        given["table"] = table_file(folder, ".csv", [HEADER, *ROWS])
    elif what == "export":
        given["annotations"] = put(folder, "boxes.json", dump_json(mutate_data(rng, EXPORT)))
    elif what == "schema":
        sound = {"version": 1, "columns": [{"name": "age", "kind": "numeric"}, {"name": "lactate", "kind": "numeric"}]}
        given["schema"] = put(folder, "s.yaml", dump_yaml(mutate_data(rng, sound)))
    else:
        given["images"] = folder / "scans"
        given["images"].mkdir()
        for path in images.iterdir():
            content = path.read_bytes()
            put(given["images"], path.name, mutate_bytes(rng, content) if rng.random() < 0.5 else content)
    given["on_error"] = rng.choice(("stop", "skip"))
    return given


def _own_check(given: dict[str, Any], state: Any) -> None:
    options = replace(OPTIONS, image_size=given.get("image_size"))
    folder = given["annotations"].parent
    prepare_own([given["annotations"]], given["images"], folder / "out", options, table=given["table"],
                schema=given.get("schema"), on_error=given.get("on_error", "stop"), num_workers=0)  # fmt: skip
    schema = ClinicalSchema.load(folder / "out" / "clinical_schema.yaml")
    files, patients = [], []
    for split in ("train", "val", "test"):
        found = read_annotations(folder / "out" / "annotations" / f"{split}.json", prepared=True, schema=schema)
        files += [image["file_name"] for image in found.images]
        patients.append({image["patient_id"] for image in found.images})
    expect(0 < len(files) == len(set(files)), "files")
    expect(not (patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]), "patients shared")
    report = json.loads((folder / "out" / "report.json").read_text())
    expect(all(s["in"] == s["kept"] + sum(s["dropped"].values()) for s in report["flow"]), "flow")


def _zip_bomb(path: Path, name: str) -> Path:
    """Inflate one part of a sound workbook to 1 GB."""
    source = io.BytesIO((path.parent / "sound.xlsx").read_bytes())
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for entry in archive.namelist():
            content = archive.read(entry)
            if entry != name:
                out.writestr(entry, content)
                continue
            with out.open(entry, "w", force_zip64=True) as file:
                head, _, tail = content.partition(b"<sheetData>")
                file.write(head + b"<sheetData>")
                row = b"<row>" + b'<c t="inlineStr"><is><t>x</t></is></c>' * 50 + b"</row>"
                for _ in range((1 << 30) // len(row * 1000)):
                    file.write(row * 1000)
                file.write(tail)
    return path


def _own_attack(make: Callable[[Path], Path]) -> Callable[[Path, Path], dict[str, Any]]:
    def attack(folder: Path, images: Path) -> dict[str, Any]:
        boxes = put(folder, "boxes.json", dump_json(EXPORT))
        return {"annotations": boxes, "images": images, "table": make(folder)}

    return attack


def _workbook_bomb(folder: Path) -> Path:
    table_file(folder, ".xlsx", [HEADER, *ROWS]).rename(folder / "sound.xlsx")
    return _zip_bomb(folder / "table.xlsx", "xl/worksheets/sheet1.xml")


def _gzip_bomb(folder: Path, row: bytes) -> Path:
    """Write a table of 3 GB in many members, each the same."""
    member = gzip.compress(row * ((1 << 22) // len(row)), compresslevel=1)
    return put(folder, "table.csv.gz", gzip.compress((",".join(HEADER) + "\n").encode()) + member * 768)


OWN = Boundary("own data", _own_setup, _own_make, _own_check, [
    *(_own_attack(lambda folder, a=a: a(folder, None)) for a in text_attacks("table.csv")),
    *(_own_attack(lambda folder, a=a: a(folder, None)) for s in (".tsv", ".xlsx", ".parquet", ".csv.gz")
      for a in no_files(f"table{s}")),
    *(_own_attack(lambda folder, s=s: put(folder, f"table{s}", b"PK\x03\x04" + b"\0" * 100)) for s in (
        ".xlsx", ".parquet", ".csv.gz", ".xls", ".docx", "")),
    _own_attack(_workbook_bomb),
    *(_own_attack(lambda folder, r=r: _gzip_bomb(folder, r)) for r in (b"x", b",", b"\n", b"scan_1,100,40,F,1.0,,\n",
    b'"')),
    _own_attack(lambda folder: put(folder, "table.xlsx",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'x'>]><a>&b;</a>")),
])  # fmt: skip


# --- records of new studies


def _records_make(rng: random.Random, folder: Path, state: Any) -> Path:
    rows = [["file", *SCHEMA.names], *([f"{i}.png", 40 + i, "", "F"] for i in range(4))]
    path = table_file(folder, ".csv", _odd_rows(rng, rows))
    return put(folder, "table.csv", mutate_bytes(rng, path.read_bytes())) if rng.random() < 0.4 else path


def _records_check(path: Path, state: Any) -> None:
    table = RecordTable.load(path, "file", SCHEMA)
    for key in table.rows:
        try:
            record = table.record([key])
        except DatasetError as error:
            expect("stands in lines" in str(error), str(error))
            continue
        SCHEMA.parse_record(record, "record")


RECORDS = Boundary("records", lambda folder: None, _records_make, _records_check, text_attacks("table.csv"))
