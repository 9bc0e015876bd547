"""Write and read prepared folders, the one dataset format that this project uses.

::

    <root>/annotations/{train,val,test}.json   COCO detection JSON; images also have "patient_id", "clinical", "sha256"
    <root>/images/...
    <root>/clinical_schema.yaml
    <root>/report.json, report.md

Writing is atomic: a folder is written next to its final place and moved there at the end.
"""

import json
import logging
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdf_detectron.child_processes import when_stopped
from mdf_detectron.data.annotations import Annotations, check_annotations, read_annotations
from mdf_detectron.data.schema import REPORT_FILE_NAME, SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.data.splits import SPLITS, patient_key
from mdf_detectron.errors import DatasetError
from mdf_detectron.fileio import (
    PARTIAL_SUFFIX,
    for_owner_only,
    markdown_table,
    read_json,
    sha256_of,
    shorten_path,
    write_json,
    write_text,
)
from mdf_detectron.locks import FolderLock

logger = logging.getLogger(__name__)

PATIENTS_KNOWN = "patients_known"
"""Report key; false if patients are unknown and each image counts as one."""


@dataclass
class PreparedImage:
    """One image with its annotations and clinical record, before it has an id.

    Attributes:
        file_name: path below ``<root>/images``.
        width, height: pixels of that file.
        clinical: column → raw value or None.
        annotations: dicts with ``bbox`` (x, y, w, h in pixels, absolute), ``category_id`` (from 1) and,
            for masks, ``segmentation`` (COCO polygons or RLE); ``area`` defaults to the box's.
        extra: further keys of the image's JSON entry (``study_id``, ``reading_id``…).
        sha256: of the file, verified when the image is read; None if unknown.
    """

    file_name: str
    width: int
    height: int
    patient_id: str
    clinical: dict[str, Any]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None


@dataclass
class Flow:
    """Account for every input: ``in = kept + Σ dropped`` at each stage."""

    stages: list[dict[str, Any]] = field(default_factory=list)

    def add(self, stage: str, total: int, kept: int, dropped: Mapping[str, int] | None = None) -> None:
        """Record one stage; raise ``AssertionError`` if inputs are unaccounted for."""
        dropped = {reason: int(n) for reason, n in (dropped or {}).items() if n}
        if total != kept + sum(dropped.values()):
            raise AssertionError(f"stage '{stage}': {total} in, but {kept} kept + {dropped} dropped")
        self.stages.append({"stage": stage, "in": int(total), "kept": int(kept), "dropped": dropped})


IMAGE_CACHE_SUFFIX = ".image_cache"
"""Suffix of the folder next to a prepared one that keeps an interrupted run's finished images."""


@contextmanager
def staged_folder(out: str | Path) -> Iterator[Path]:
    """Yield an empty folder next to ``out`` that replaces ``out`` when the block ends without an error.

    Only the owner can read its content (0600, 0700). ``out`` is locked meanwhile; remains of killed runs are removed.

    Raises:
        DatasetError: ``out`` is not a prepared dataset; a mistyped ``--out`` must not delete anything else.
        FolderInUseError: another run writes to ``out``.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        FolderLock(out, in_parent=True),
        when_stopped(lambda text: f"{text}; {shorten_path(out)} is as it was before: run the same command again"),
    ):
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / REPORT_FILE_NAME).is_file())):
            raise DatasetError(f"{out} exists and is not a prepared dataset folder; name another --out or remove it")
        old = out.with_name(out.name + ".old")
        if old.exists() and not out.exists():
            old.rename(out)  # an earlier run was killed between the two moves below
        of_killed = re.compile(rf"{re.escape(out.name)}\.[0-9a-f]{{8}}{re.escape(PARTIAL_SUFFIX)}")
        for leftover in (*(p for p in out.parent.glob(f"*{PARTIAL_SUFFIX}") if of_killed.fullmatch(p.name)), old):
            shutil.rmtree(leftover, ignore_errors=True)
        staging = out.with_name(f"{out.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        try:
            with for_owner_only():
                staging.mkdir()
                yield staging
                _replace(out, staging, old)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        for done in (old, out.with_name(out.name + IMAGE_CACHE_SUFFIX)):
            shutil.rmtree(done, ignore_errors=True)


def _replace(out: Path, staging: Path, old: Path) -> None:
    if out.exists():
        out.rename(old)
    try:
        staging.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise


def write_annotations(
    folder: Path,
    splits: Mapping[str, Sequence[PreparedImage]],
    class_names: Sequence[str],
    schema: ClinicalSchema,
    description: str,
) -> None:
    """Write ``annotations/*.json`` and the schema, after validation by :mod:`~mdf_detectron.data.annotations`."""
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
    (folder / "annotations").mkdir(exist_ok=True)
    image_id = annotation_id = 0
    for split in SPLITS:
        images, annotations = [], []
        for record in splits.get(split, ()):
            image_id += 1
            images.append(
                {
                    "id": image_id,
                    "file_name": record.file_name,
                    "width": int(record.width),
                    "height": int(record.height),
                    "patient_id": patient_key(record.patient_id),
                    "clinical": {**dict.fromkeys(schema.names), **record.clinical},
                    **({"sha256": record.sha256} if record.sha256 else {}),
                    **record.extra,
                }
            )
            for annotation in record.annotations:
                annotation_id += 1
                box_area = float(annotation["bbox"][2] * annotation["bbox"][3])
                annotations.append(
                    {"id": annotation_id, "image_id": image_id, "iscrowd": 0, "area": box_area, **annotation}
                )
        data = {
            "info": {"description": description},
            "categories": categories,
            "images": images,
            "annotations": annotations,
        }
        path = folder / "annotations" / f"{split}.json"
        check_annotations(data, f"{split}.json", prepared=True, schema=schema)
        write_text(path, json.dumps(data, allow_nan=False, ensure_ascii=False))
    schema.save(folder / SCHEMA_FILE_NAME)


def check_prepared(root: str | Path) -> Path:
    """Return the path of a prepared folder; raise ``DatasetError`` for any other folder."""
    if not Path(root).is_dir():
        raise DatasetError(f"{shorten_path(root)}: there is no such folder")
    if not (Path(root) / "annotations").is_dir():
        raise DatasetError(f"{shorten_path(root)} has no folder 'annotations'; `mdf prepare` makes a prepared folder")
    return Path(root)


def read_folder(root: str | Path) -> tuple[ClinicalSchema, dict[str, Annotations]]:
    """Read the schema and the annotations of every split of a prepared folder."""
    root = check_prepared(root)
    schema = ClinicalSchema.load(root / SCHEMA_FILE_NAME)
    return schema, {
        split: read_annotations(root / "annotations" / f"{split}.json", prepared=True, schema=schema)
        for split in SPLITS
    }


def summarize_splits(
    splits: Mapping[str, Sequence[PreparedImage]], class_names: Sequence[str], schema: ClinicalSchema
) -> dict[str, dict[str, Any]]:
    """Count each split's patients, images, healthy images, boxes per class and missing values per column."""
    summary = {}
    for split, records in splits.items():
        boxes = [a["category_id"] for r in records for a in r.annotations]
        summary[split] = {
            "patients": len({r.patient_id for r in records}),
            "images": len(records),
            "images_without_boxes": sum(not r.annotations for r in records),
            "boxes": {name: boxes.count(i) for i, name in enumerate(class_names, start=1)},
            "missing": {n: sum(r.clinical.get(n) is None for r in records) for n in schema.names},
        }
    return summary


def write_report(folder: Path, title: str, arguments: Mapping[str, Any], flow: Flow, body: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.md``: the flow, the splits and the body's ``tables``.

    Call it after :func:`write_annotations`: the JSON also holds the digests of the annotation files and the schema.
    """
    report = {"title": title, "arguments": dict(arguments), "flow": flow.stages, **body}
    if digests := _digests(folder):
        report["sha256"] = digests
    write_json(folder / REPORT_FILE_NAME, report)
    write_text(folder / "report.md", _report_markdown(report))


def _digests(folder: Path) -> dict[str, str]:
    files = sorted([*folder.glob("annotations/*.json"), *folder.glob(SCHEMA_FILE_NAME)])
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def renew_digests(folder: Path) -> None:
    """Update the digests in the report of ``folder`` after its files were rewritten."""
    report = read_json(folder / REPORT_FILE_NAME, DatasetError)
    write_json(folder / REPORT_FILE_NAME, {**report, "sha256": _digests(folder)})


def is_up_to_date(out: str | Path, arguments: Mapping[str, Any]) -> bool:
    """Check whether ``out`` is a prepared folder made with exactly these arguments."""
    report = Path(out) / REPORT_FILE_NAME
    if not report.is_file():
        return False
    wanted = json.loads(json.dumps(dict(arguments)))
    made = read_json(report, DatasetError)
    return isinstance(made, dict) and made.get("arguments") == wanted


def _report_markdown(report: Mapping[str, Any]) -> str:
    parts = [f"# {report['title']}\n"]
    parts += [f"{note}\n" for note in report.get("notes", ())]
    rows = [
        (s["stage"], s["in"], s["kept"], "; ".join(f"{k}: {v}" for k, v in s["dropped"].items()) or "none")
        for s in report["flow"]
    ]
    parts += ["## What came in and what was kept\n", markdown_table(("stage", "in", "kept", "dropped"), rows)]
    for key, heading in (("boxes", "Boxes per class"), ("missing", "Missing values per column")):
        splits = report.get("splits", {})
        if splits:
            names = list(next(iter(splits.values()))[key])
            table = [(n, *(s[key][n] for s in splits.values())) for n in names]
            if key == "boxes":
                counts = ("patients", "images", "images_without_boxes")
                table = [(c, *(s[c] for s in splits.values())) for c in counts] + table
            parts += [f"## {heading}\n", markdown_table(("", *splits), table)]
    for table in report.get("tables", ()):
        parts += [f"## {table['title']}\n", markdown_table(table["header"], table["rows"])]
    return "\n".join(parts)
