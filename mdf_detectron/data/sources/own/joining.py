"""Which file, row, patient and times belong to each annotated image."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mdf_detectron.data.dicom import SUFFIXES, is_dicom
from mdf_detectron.data.readers import read_dicom_tags
from mdf_detectron.data.sources.kit.table import (
    IMAGE_SUFFIXES,
    Row,
    Table,
    is_later,
    normal_key,
    parse_time,
    rows_by_key,
    stem,
    time_of,
)
from mdf_detectron.data.sources.kit.values import ProblemList, fold, is_empty
from mdf_detectron.data.sources.own.boxes import SourceImage, original_stems
from mdf_detectron.data.sources.own.options import DICOM_TIME, OwnOptions
from mdf_detectron.data.splits import patient_key
from mdf_detectron.errors import ImageReadError, SourceDataError, shorten
from mdf_detectron.workers import parallel_map

SEVERAL_ROWS, UNREADABLE_TIME = "several rows of one key", "unreadable time"
NO_ROW, LATE = "no row of the table", "record later than its image"
"""Why an image has no record."""

SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
               "test": "test", "testing": "test"}  # fmt: skip


@dataclass
class Study:
    """One annotated image with what belongs to it.

    Attributes:
        image: of the annotations.
        path: of its file.
        tags: DICOM tags that were asked for.
        row: of the table; empty where none belongs to it.
        no_record: why ``row`` is empty.
        identity: the row that tells patient and split, which may be one whose values are refused.
        patient: id, or None where it is not known.
        times: (image, record), ISO 8601 or None.
        split: of the split column.
    """

    image: SourceImage
    path: Path
    tags: dict[str, str | None] = field(default_factory=dict)
    row: Row = field(default_factory=dict)
    no_record: str = ""
    identity: Row = field(default_factory=dict)
    patient: str | None = None
    times: tuple[str | None, str | None] = (None, None)
    split: str | None = None


def list_images(folder: Path) -> list[Path]:
    """Image files below a folder, in order: those with a known suffix, and DICOM files without one.

    Raises:
        SourceDataError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SourceDataError(f"{folder}: no such folder of images")
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith("."):
                continue
            if name.lower().endswith(IMAGE_SUFFIXES) or ("." not in name and is_dicom(path)):
                found.append(path)
    if not found:
        raise SourceDataError(f"{folder}: no image in it; known suffixes are {', '.join(IMAGE_SUFFIXES)}")
    return found


def find_files(
    images: Sequence[SourceImage], files: Sequence[Path], folder: Path, problems: ProblemList, drops: Counter[str]
) -> list[Study]:
    """The file of each image: of the same path, name or stem, in this order, if it is the only one."""
    keys: list[Callable[[Path], str]] = [
        lambda p: p.relative_to(folder).as_posix(),
        lambda p: p.name,
        lambda p: stem(p.name),
    ]
    indexes: list[dict[str, list[Path]]] = []
    for key in keys:
        index: dict[str, list[Path]] = {}
        for path in files:
            index.setdefault(key(path), []).append(path)
        indexes.append(index)
    studies, owner = [], {}
    for image in images:
        name = image.name.replace("\\", "/")
        candidates = indexes[0].get(name) or indexes[1].get(name.rsplit("/", 1)[-1])
        for one in original_stems(name):
            candidates = candidates or indexes[2].get(one)
        if not candidates:
            reason, text = "no file of that name", f"no file of that name below {folder}; --images is its folder"
        elif len(candidates) > 1:
            listed = ", ".join(p.relative_to(folder).as_posix() for p in candidates[:3])
            reason, text = "several files of that name", f"several files may be meant ({listed}); write the path"
        elif candidates[0] in owner:
            reason, text = (
                "file of another entry",
                f"its file {candidates[0].name} belongs to {owner[candidates[0]]} too",
            )
        else:
            owner[candidates[0]] = image.where
            studies.append(Study(image, candidates[0]))
            continue
        problems.add(reason, f"{image.where}: {text}")
        drops[reason] += 1
    return studies


def read_tags(studies: list[Study], tags: Sequence[str], num_workers: int) -> None:
    """Set the tags of DICOM files; other files have none."""
    dicom = [s for s in studies if tags and (s.path.suffix.lower() in SUFFIXES or is_dicom(s.path))]
    for study in studies:
        study.tags = dict.fromkeys(tags)
    function = partial(_tags_of, keywords=list(tags))
    for study, read in zip(
        dicom, parallel_map(function, [s.path for s in dicom], num_workers, "reading tags"), strict=True
    ):
        study.tags = read


def _tags_of(path: Path, keywords: list[str]) -> dict[str, str | None]:
    try:
        return read_dicom_tags(path, keywords)
    except ImageReadError:  # the file is named when its pixels are read
        return dict.fromkeys(keywords)


def join_table(
    studies: list[Study], table: Table, options: OwnOptions, problems: ProblemList, drops: Counter[str]
) -> Counter[str]:
    """Set the row and the times of each study.

    A study whose rows are all later than its image stays, without a record: when it was taken, nothing was known. One
    with several rows that differ, or whose times cannot be read, leaves ``studies``, counted in ``drops``: its record
    is not known, and without it it would pass for one whose values are missing.

    Returns:
        rows of the table that are used, and those that are not, by reason.

    Raises:
        SourceDataError: no row belongs to any image.
    """
    column, kind = options.key_column, options.key_kind
    assert column is not None
    found = rows_by_key(table, column, kind, problems)
    used: set[int] = set()
    refused: dict[int, str] = {}
    unclear: list[Study] = []
    for study in studies:
        numbers = next((found[key] for key in _keys(study, kind) if key in found), [])
        study.identity = table.rows[numbers[0]] if numbers else {}
        moment = _image_time(study, table, numbers, options, problems)
        usable, why_not = _usable_rows(study, table, numbers, moment, options, problems)
        refused |= why_not
        if not usable and UNREADABLE_TIME in why_not.values():
            drops[UNREADABLE_TIME] += 1
            unclear.append(study)
            continue
        if len(usable) > 1 and not options.record_time:
            lines = ", ".join(table.place(n) for n in numbers[:3])
            text = f"{lines}: several rows of one {column} ({shorten(table.rows[numbers[0]][column])}) that differ"
            problems.add(SEVERAL_ROWS, f"{text}; keep one, or name the time of each with --record-time")
            drops[SEVERAL_ROWS] += 1
            unclear.append(study)
            continue
        if usable:
            number, recorded = max(usable, key=lambda pair: (pair[1] is not None, pair[1] or (), -pair[0]))
            used.add(number)
            study.row = table.rows[number]
            study.times = (_iso(moment), _iso(recorded))
        else:
            study.times = (_iso(moment), None)
            study.no_record = LATE if why_not else NO_ROW
    if not used and not problems.counts:
        rows, files = (", ".join(map(repr, list(found)[:3])), ", ".join(repr(_keys(s, kind)[0]) for s in studies[:3]))
        raise SourceDataError(
            f"{table.path}: no row belongs to any image: column '{column}' has {rows}, the images' {kind} {files}; "
            "see --key"
        )
    gone = set(map(id, unclear))
    studies[:] = [study for study in studies if id(study) not in gone]
    rest = Counter(reason for number, reason in refused.items() if number not in used)
    rest["used"] = len(used)
    rest["no image, or an earlier record of one"] = sum(map(len, found.values())) - sum(rest.values())
    return rest


def _keys(study: Study, kind: str) -> list[str]:
    if kind == "id":
        return [normal_key(study.image.image_id, "id") or ""]
    if kind == "name":
        return [normal_key(study.image.name, "name") or "", study.path.name]
    if kind == "stem":
        stems = [*original_stems(study.image.name), stem(study.path.name)]
        return [key for s in stems if (key := normal_key(s, "id"))]
    return [normal_key(study.tags[kind], "id") or ""]


def _image_time(study: Study, table: Table, numbers: list[int], options: OwnOptions, problems: ProblemList):
    if options.time == DICOM_TIME:
        return dicom_time(study.tags)
    if options.time is None or not numbers:
        return None
    return time_of(table.rows[numbers[0]], options.time, table.place(numbers[0]), options.time_format, problems)


def dicom_time(tags: dict[str, str | None]):
    """The time of acquisition, or else of the study, and whether it has a clock; None where there is none."""
    for kind in ("Acquisition", "Study"):
        day, clock = tags.get(f"{kind}Date"), tags.get(f"{kind}Time")
        if day and re.fullmatch(r"\d{8}", day):
            digits = re.match(r"\d{6}", clock or "")
            text = f"{day[:4]}-{day[4:6]}-{day[6:]}"
            if digits:
                text += f" {clock[:2]}:{clock[2:4]}:{clock[4:6]}"
            return parse_time(text, None)
    return None


def _usable_rows(study: Study, table: Table, numbers: list[int], moment, options: OwnOptions, problems: ProblemList):
    """(row, its time) of the rows that are not later than the image, and why the others are not used, by row.

    A later row knows the future; of one whose time, or whose image's, cannot be read, nobody knows whether it does.
    """
    if options.record_time is None:
        return [(number, None) for number in numbers], {}
    kept, refused = [], {}
    first_late = ""
    image_unreadable = moment is None and bool(numbers) and _is_filled(table.rows[numbers[0]], options.time)
    for number in numbers:
        row, place = table.rows[number], table.place(number)
        recorded = time_of(row, options.record_time, place, options.time_format, problems)
        if image_unreadable or (recorded is None and _is_filled(row, options.record_time)):
            refused[number] = UNREADABLE_TIME
        elif moment and recorded and is_later(recorded, moment):
            refused[number] = LATE
            text = f"{place}: record of {_iso(recorded)}, its image {study.image.name} is of {_iso(moment)}"
            first_late = first_late or f"{text}; a later record knows what followed: leave it out"
        else:
            kept.append((number, recorded))
    if first_late and not kept:
        problems.add(LATE, first_late)
    return kept, refused


def _is_filled(row: Row, column: str | None) -> bool:
    return column in row and not is_empty(row[column])


def _iso(moment) -> str | None:
    if moment is None:
        return None
    return moment[0].isoformat() if moment[1] else moment[0].date().isoformat()


def set_patients(studies: list[Study], options: OwnOptions, problems: ProblemList) -> None:
    """Set the patient of each study; a blank one is a problem."""
    if options.patient is None:
        return
    for study in studies:
        kind, _, rest = options.patient.partition("=")
        if options.patient.startswith("dicom:"):
            raw = study.tags[options.patient.removeprefix("dicom:")]
        elif kind == "stem" and rest:
            match = re.search(rest, stem(study.path.name))
            raw = match[1] if match and match.groups() else None
        else:
            raw = study.identity.get(options.patient)
        study.patient = patient_key(raw) if not is_empty(raw) else None
        if study.patient is None:
            text = f"{study.image.where}: no patient ({options.patient} is {shorten(raw)})"
            problems.add("no patient", f"{text}; an image without a patient cannot be split soundly")


def set_splits(studies: list[Study], options: OwnOptions, problems: ProblemList) -> None:
    """Set the split of each study by the split column; a patient in several splits is a problem."""
    if options.split_column is None:
        return
    splits_of: dict[str, str] = {}
    for study in studies:
        raw = study.identity.get(options.split_column)
        study.split = SPLIT_WORDS.get(fold(raw)) if raw is not None else None
        if study.split is None:
            text = f"{study.image.where}: {options.split_column} is {shorten(raw)}; expected train, val or test"
            problems.add("no split", text)
        elif study.patient is not None:
            first = splits_of.setdefault(study.patient, study.split)
            if first != study.split:
                text = f"{study.image.where}: patient {study.patient} is in {first} and in {study.split}"
                problems.add("patient in several splits", f"{text}; put all images of a patient in one split")
                study.split = None


def sources_of(studies: Sequence[Study], source: str, dicom: bool) -> list[Any]:
    """Raw values of a column, one a study."""
    return [(s.tags if dicom else s.row).get(source) for s in studies]
