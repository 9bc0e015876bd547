"""Write a prepared folder: splits, folds, the schema, the report."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.prepared import (
    PATIENTS_KNOWN,
    SPLITS,
    PreparedImage,
    summarize_splits,
    write_annotations,
    write_report,
)
from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.collection import Content, WriteOptions
from mdf_detectron.data.sources.kit.image_files import how_images_were_read
from mdf_detectron.data.splits import balanced_parts
from mdf_detectron.errors import SourceDataError
from mdf_detectron.fileio import write_text

Splits = Mapping[str, Sequence[PreparedImage]]

_NUMBER = re.compile(r"(?<!\w)[-−]?\d[\d.,]*")  # a value in a question, which only the schema tells


def write_folder(
    account: Account,
    content: Content,
    options: WriteOptions,
    folder: Path,
    arguments: Mapping[str, Any],
    records: Sequence[tuple[PreparedImage, str | None]],
) -> None:
    """Write everything but the images, which ``folder`` holds already; each record has a split, or none has.

    Raises:
        SourceDataError: nothing is left to write, or too few patients for the splits.
    """
    names, images, title = content.source.class_names, [record for record, _ in records], content.title
    if not images or not names:
        raise SourceDataError(f"nothing to write: {len(images)} images and {len(names)} classes are left; "
                              f"dropped: {dict(account.image_drops)}")  # fmt: skip
    _drop_partial_masks(images, account.notes)
    if any(split for _, split in records):
        splits = {name: [record for record, split in records if split == name] for name in SPLITS}
    else:
        splits = _split(images, content, options.fractions, dict(enumerate(SPLITS)), options.seed)
    account.notes += _doubts(splits, account)
    _write(folder, splits, content, title)
    body = _report_body(account, splits, content)
    if content.details:
        details = content.details(splits)
        body |= {**details, "tables": [*details.get("tables", ()), *body["tables"]]}
    write_report(folder, title, arguments, account.flow, body)
    for number in range(options.folds):
        # this fold is the test split, the next one is the validation split
        part = {number: "test", (number + 1) % options.folds: "val"}
        splits = _split(images, content, (1 / options.folds,) * options.folds, part, options.seed)
        fold, title = folder / f"fold_{number}", f"{content.title}, fold {number} of {options.folds}"
        fold.mkdir()
        (fold / "images").symlink_to("../images")
        _write(fold, splits, content, title)
        of_fold = _notes(account) | {"splits": summarize_splits(splits, names, content.schema)}
        of_fold |= {"synthetic": True} if body.get("synthetic") else {}
        write_report(fold, title, arguments, account.flow, of_fold)


def _write(folder: Path, splits: Splits, content: Content, title: str) -> None:
    write_annotations(folder, splits, content.source.class_names, content.schema, title)
    if content.schema_text is not None:
        write_text(folder / SCHEMA_FILE_NAME, content.schema_text)
        if ClinicalSchema.load(folder / SCHEMA_FILE_NAME) != content.schema:
            raise AssertionError("the commented schema reads as another one")


def _drop_partial_masks(images: Sequence[PreparedImage], notes: list[str]) -> None:
    """Drop masks unless every box has one: a model with masks cannot train on boxes without."""
    boxes = [a for image in images for a in image.annotations]
    with_mask = sum("segmentation" in a for a in boxes)
    if 0 < with_mask < len(boxes):
        for annotation in boxes:
            annotation.pop("segmentation", None)
        notes.append(f"Only {with_mask} of {len(boxes)} boxes have a mask: all masks are left out. Complete them to "
                     "train with masks.")  # fmt: skip
    if crowds := sum(bool(a.get("iscrowd")) for a in boxes):
        notes.append(f"{crowds} boxes are marked iscrowd: they are neither trained on nor counted as findings.")


def _doubts(splits: Splits, account: Account) -> list[str]:
    """Say which splits are mostly one patient, and whether patients or splits share pixels."""
    notes, same = [], defaultdict(list)
    for split, images in splits.items():
        for image in images:
            same[account.files[image.file_name].pixels].append((split, image.patient_id))
        most = max(Counter(image.patient_id for image in images).values(), default=0)
        if 1 < len(images) < 2 * most:
            notes.append(f"**{most} of the {len(images)} images of split {split} are one patient's**: its results say "
                         "little about others. Add patients, or divide in another way.")  # fmt: skip
    several = [places for places in same.values() if len({patient for _, patient in places}) > 1]
    if several:
        across = sum(len({split for split, _ in places}) > 1 for places in several)
        notes.append(f"**{sum(map(len, several))} images have the pixels of another patient's image** ({len(several)} "
                     f"groups, {across} in several splits): give copies one patient, or leave them out.")  # fmt: skip
    return notes


def _split(
    images: Sequence[PreparedImage], content: Content, shares: Sequence[float], names: Mapping[int, str], seed: int
) -> dict[str, list[PreparedImage]]:
    """Divide images into parts of the given shares; ``names`` maps part → split, all others are for training."""
    counts = np.zeros((len(images), len(content.source.class_names)), dtype=np.int64)
    for row, image in zip(counts, images, strict=True):
        np.add.at(row, [a["category_id"] - 1 for a in image.annotations], 1)
    groups = [image.patient_id for image in images] if content.split_patients else range(len(images))
    parts = deal(groups, counts, shares, seed)
    split_of = [names.get(int(part), "train") for part in parts]
    return {name: [i for i, split in zip(images, split_of, strict=True) if split == name] for name in SPLITS}


def deal(groups: Sequence[Any], counts: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Call :func:`~mdf_detectron.data.splits.balanced_parts`; report too few patients as a SourceDataError."""
    try:
        return balanced_parts(groups, counts, shares, seed)
    except ValueError as error:
        raise SourceDataError(f"{error}; too few patients are left") from None


def _notes(account: Account) -> dict[str, Any]:
    return {"notes": account.notes, PATIENTS_KNOWN: account.patients_known}


def _report_body(account: Account, splits: Splits, content: Content) -> dict[str, Any]:
    shown, problems = account.problems.show_values, account.problems.as_dict()
    tables = [
        {"title": "Values that were changed or removed",
         "header": ["column", "what", "reason", "count", *["examples"][: int(shown)]],
         "rows": [row if shown else row[:-1] for row in account.log.rows()]},
        {"title": "Boxes that were changed", "header": ["what", "count"], "rows": sorted(account.box_changes.items())},
        how_images_were_read(account.files.values()),
        {"title": f"To decide in {SCHEMA_FILE_NAME} (the schema is a proposal)", "header": ["column", "question"],
         "rows": [(n, q if shown else _NUMBER.sub("…", q)) for n, q in content.schema_questions]},
        {"title": "Entries that were left out", "header": ["kind", "count", *["first"][: int(shown)]],
         "rows": [(kind, p["count"], *p.get("first", [])[:1]) for kind, p in problems.items()]},
    ]  # fmt: skip
    account.problems.tell()
    return {
        **_notes(account),
        "splits": summarize_splits(splits, content.source.class_names, content.schema),
        "problems": problems,
        "tables": [table for table in tables if table["rows"]],
    }
