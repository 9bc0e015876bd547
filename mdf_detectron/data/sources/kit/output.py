"""Write the prepared folder of own data: splits, folds, the schema with its comments, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.prepared import (
    PATIENTS_KNOWN,
    SPLITS,
    Flow,
    PreparedImage,
    summarize_splits,
    write_annotations,
    write_report,
)
from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.data.sources.kit.image_files import ImageFile, how_images_were_read
from mdf_detectron.data.sources.kit.values import ProblemList, ValueLog
from mdf_detectron.data.sources.own.options import OwnOptions
from mdf_detectron.data.sources.own.schema_proposal import Proposal
from mdf_detectron.data.splits import balanced_parts
from mdf_detectron.errors import SourceDataError
from mdf_detectron.fileio import write_text


@dataclass
class Account:
    """What happened to the input, for the report.

    Attributes:
        problems: broken entries.
        flow, log: what came in and was kept; values changed and removed.
        notes: what a reader of the folder must know.
        image_drops, box_changes: images left out, boxes changed, by reason.
        patients_known: whether the sources tell whose image it is; else each image counts as a patient.
        files: the images that are kept, as they were read.
    """

    problems: ProblemList
    flow: Flow = field(default_factory=Flow)
    log: ValueLog = field(default_factory=ValueLog)
    notes: list[str] = field(default_factory=list)
    image_drops: Counter[str] = field(default_factory=Counter)
    box_changes: Counter[str] = field(default_factory=Counter)
    patients_known: bool = True
    files: list[ImageFile] = field(default_factory=list)


def write_folder(
    account: Account,
    options: OwnOptions,
    staging: Path,
    title: str,
    arguments: dict[str, Any],
    records: list[tuple[PreparedImage, str | None]],
    class_names: list[str],
    schema: ClinicalSchema,
    proposal: Proposal | None,
) -> None:
    if not records or not class_names:
        raise SourceDataError(f"nothing to write: {len(records)} images and {len(class_names)} classes are left; "
                              f"dropped: {dict(account.image_drops)}")  # fmt: skip
    _drop_partial_masks([record for record, _ in records], account.notes)
    whole = [record for record, _ in records]
    if options.split_column:
        splits = {name: [r for r, split in records if split == name] for name in SPLITS}
    else:
        splits = _parts(whole, class_names, options.fractions, options.seed)
    write_annotations(staging, splits, class_names, schema, title)
    _write_schema(staging, proposal)
    body = _report_body(account, splits, class_names, schema, proposal)
    write_report(staging, title, arguments, account.flow, body)
    for number in range(options.folds):
        fold = _fold(whole, class_names, options, number)
        target = staging / f"fold_{number}"
        target.mkdir()
        (target / "images").symlink_to("../images")
        write_annotations(target, fold, class_names, schema, f"{title}, fold {number} of {options.folds}")
        _write_schema(target, proposal)
        body = {"notes": account.notes, PATIENTS_KNOWN: account.patients_known}
        body["splits"] = summarize_splits(fold, class_names, schema)
        write_report(target, f"{title}, fold {number}", arguments, account.flow, body)


def _write_schema(folder: Path, proposal: Proposal | None) -> None:
    if proposal is not None:
        write_text(folder / SCHEMA_FILE_NAME, proposal.to_yaml())
        if ClinicalSchema.load(folder / SCHEMA_FILE_NAME) != proposal.schema:
            raise AssertionError("the commented schema reads as another one")


def _drop_partial_masks(records: list[PreparedImage], notes: list[str]) -> None:
    """Masks are kept only if every box has one: a model with masks cannot train on the others."""
    boxes = [a for record in records for a in record.annotations]
    with_mask = sum("segmentation" in a for a in boxes)
    if 0 < with_mask < len(boxes):
        for annotation in boxes:
            annotation.pop("segmentation", None)
        notes.append(f"Only {with_mask} of {len(boxes)} boxes have a mask: all masks are left out. Complete them to "
                     "train with masks.")  # fmt: skip
    if crowds := sum(bool(a.get("iscrowd")) for a in boxes):
        notes.append(f"{crowds} boxes are marked iscrowd: they are neither trained on nor counted as findings.")


def _parts(
    records: list[PreparedImage], class_names: list[str], shares: Sequence[float], seed: int
) -> dict[str, list[PreparedImage]]:
    part = _deal(records, class_names, shares, seed)
    return {name: [r for r, p in zip(records, part, strict=True) if p == k] for k, name in enumerate(SPLITS)}


def _fold(
    records: list[PreparedImage], class_names: list[str], options: OwnOptions, test: int
) -> dict[str, list[PreparedImage]]:
    """Fold ``test`` is the test split, the next one the validation split."""
    part = _deal(records, class_names, (1 / options.folds,) * options.folds, options.seed)
    name = {test: "test", (test + 1) % options.folds: "val"}
    return {s: [r for r, p in zip(records, part, strict=True) if name.get(p, "train") == s] for s in SPLITS}


def _deal(records: list[PreparedImage], class_names: list[str], shares: Sequence[float], seed: int) -> np.ndarray:
    counts = np.zeros((len(records), len(class_names)), dtype=np.int64)
    for row, record in zip(counts, records, strict=True):
        np.add.at(row, [a["category_id"] - 1 for a in record.annotations], 1)
    try:
        return balanced_parts([r.patient_id for r in records], counts, shares, seed)
    except ValueError as error:
        raise SourceDataError(f"{error}; too few patients are left") from None


def _report_body(
    account: Account, splits: dict, class_names: list[str], schema: ClinicalSchema, proposal: Proposal | None
) -> dict[str, Any]:
    shown = account.problems.show_values
    tables = [
        {"title": "Values that were changed or removed",
         "header": ["column", "what", "reason", "count", *["examples"][: int(shown)]],
         "rows": [row if shown else row[:-1] for row in account.log.rows()]},
        {"title": "Boxes that were changed", "header": ["what", "count"], "rows": sorted(account.box_changes.items())},
        how_images_were_read(account.files),
    ]  # fmt: skip
    if proposal is not None:
        questions = [(n, q) for n, several in proposal.questions.items() for q in several]
        left_out = [(n, f"left out: {reason}") for n, reason in proposal.left_out.items()]
        tables.append({"title": f"To decide in {SCHEMA_FILE_NAME} (the schema is a proposal)",
                       "header": ["column", "question"], "rows": questions + left_out})  # fmt: skip
    problems = account.problems.as_dict()
    tables.append({"title": "Entries that were left out", "header": ["kind", "count", *["first"][: int(shown)]],
                   "rows": [(kind, p["count"], *p.get("first", [])[:1]) for kind, p in problems.items()]})  # fmt: skip
    account.problems.tell()
    return {
        "notes": account.notes,
        PATIENTS_KNOWN: account.patients_known,
        "splits": summarize_splits(splits, class_names, schema),
        "problems": problems,
        "tables": [table for table in tables if table["rows"]],
    }
