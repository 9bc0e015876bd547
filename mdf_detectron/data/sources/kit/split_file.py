"""Read the splits of readings or images from a table (``--splits FILE``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.studies import SPLIT_WORDS, Study
from mdf_detectron.data.sources.kit.table import read_table
from mdf_detectron.data.sources.kit.values import fold
from mdf_detectron.data.splits import patient_key
from mdf_detectron.errors import SourceDataError, shorten

KEYS, SPLIT = ("reading_id", "id", "dicom_id", "image_id", "image", "file_name"), "split"


def set_splits_by_file(path: str | Path, studies: Sequence[Study], problems: ProblemList) -> None:
    """Set each study's split, None if the table does not name it, by column "split" and the first of :data:`KEYS`.

    A key is a reading, or an image by id, file name or stem. An unknown one and one in two splits are problems.
    """
    table = read_table(path, problems)
    table.require([SPLIT], "--splits")
    column = next((name for name in KEYS if name in table.columns), None)
    if column is None:
        known = ", ".join(table.columns)
        raise SourceDataError(f"{path}: it has {known}; name the column of readings or images one of {', '.join(KEYS)}")
    of_key: dict[str | None, list[Study]] = {}
    for study in studies:
        study.split = None
        readings = str(study.extra.get("reading_id", "")).split()
        for name in {*readings, study.image.image_id, study.image.name, study.path.name, study.path.stem}:
            of_key.setdefault(patient_key(name), []).append(study)
    for number, row in enumerate(table.rows):
        split, where = SPLIT_WORDS.get(fold(row[SPLIT])), f"{table.place(number)}: {column} {shorten(row[column])}"
        named = of_key.get(patient_key(row[column]), ())
        if split is None:
            problems.add("no split", f"{where} has split {shorten(row[SPLIT])}; expected train, val or test")
        elif not named:
            problems.add("unknown reading or image", f"{where} is not among the {len(studies)} entries that are left")
        elif others := {study.split for study in named} - {None, split}:
            problems.add("in two splits", f"{where} is in {split} and in {others.pop()}; name one")
        else:
            for study in named:
                study.split = split
