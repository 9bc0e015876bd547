"""Find the file, table row, patient, times and split of each annotated image."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mdf_detectron.data.readers import is_dicom
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.studies import SPLIT_WORDS, SourceImage, Study
from mdf_detectron.data.sources.kit.table import IMAGE_SUFFIXES, Row, Table, stem
from mdf_detectron.data.sources.kit.values import fold, is_empty
from mdf_detectron.data.sources.own.annotations import original_stems
from mdf_detectron.data.splits import patient_key
from mdf_detectron.errors import SourceDataError, shorten

if TYPE_CHECKING:
    from mdf_detectron.data.sources.own.collection import OwnOptions

DICOM_TIME = "dicom"
"""``--time dicom``: read times from the image files."""

NO_SPLIT = "no split"
SEVERAL_ROWS, UNREADABLE_TIME = "several rows of one key", "unreadable time"
NO_ROW, LATE = "no row of the table", "record later than its image"


def list_images(folder: Path, masks: Collection[Path] = ()) -> list[Path]:
    """List the image files below a folder but ``masks``, sorted: with a known suffix, or DICOM files without one."""
    if not folder.is_dir():
        raise SourceDataError(f"{folder}: no such folder of images")
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith(".") or path in masks:
                continue
            if name.lower().endswith(IMAGE_SUFFIXES) or ("." not in name and is_dicom(path)):
                found.append(path)
    if not found:
        raise SourceDataError(f"{folder}: no image in it; known suffixes are {', '.join(IMAGE_SUFFIXES)}")
    return found


def find_files(
    images: Sequence[SourceImage], files: Sequence[Path], folder: Path, problems: ProblemList, drops: Counter[str]
) -> list[Study]:
    """Find the file of each image by path, then name, then stem; the match must be unique."""
    keys: list[Callable[[Path], str]] = [
        lambda p: p.relative_to(folder).as_posix(),
        lambda p: p.name,
        lambda p: stem(p.name),
    ]
    found: dict[tuple[int, str], list[Path]] = {}
    for number, key in enumerate(keys):
        for path in files:
            found.setdefault((number, key(path)), []).append(path)
    studies, owner = [], {}
    for image in images:
        name = image.name.replace("\\", "/")
        candidates = found.get((0, name)) or found.get((1, name.rsplit("/", 1)[-1]))
        for one in original_stems(name):
            candidates = candidates or found.get((2, one))
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


def join_table(
    studies: list[Study], table: Table, options: OwnOptions, problems: ProblemList, drops: Counter[str]
) -> Counter[str]:
    """Set the row and the times of each study; return counts of used and unused table rows, by reason.

    A study whose rows are all later than its image stays, without a record: at its time, nothing was known. A study
    with several different rows, or unreadable times, is removed and counted in ``drops``: its record is unknown, and
    keeping it without one would suggest that its values are missing.
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
    """Return the time of acquisition, or else of the study, and whether it has a clock time; None if unknown."""
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
    """Return (row, its time) of rows not later than the image, and why each other row is not used.

    A later row leaks the future; if either time is unreadable, the row may be later and is refused too.
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


def set_patients(studies: list[Study], options: OwnOptions) -> None:
    """Set each study's patient, or why it has none; if no option is given, each image is a patient."""
    kind, _, pattern = (options.patient or "").partition("=")
    for study in studies:
        if options.patient is None:
            study.patient = f"image {study.image.name}"
            continue
        if options.patient.startswith("dicom:"):
            raw = study.tags[options.patient.removeprefix("dicom:")]
        elif kind == "stem" and pattern:
            match = re.search(pattern, stem(study.path.name))
            raw = match[1] if match and match.groups() else None
        else:
            raw = study.identity.get(options.patient)
        study.patient = None if is_empty(raw) else raw
        study.no_patient = f"{options.patient} is {shorten(raw)}"


def set_splits(studies: list[Study], column: str, problems: ProblemList, drops: Counter[str]) -> None:
    """Set splits from a table column; remove and count studies without a split."""
    for study in studies:
        raw = study.identity.get(column)
        study.split = None if raw is None else SPLIT_WORDS.get(fold(raw))
        if study.split is None:
            problems.add(NO_SPLIT, f"{study.image.where}: {column} is {shorten(raw)}; expected train, val or test")
            drops[NO_SPLIT] += 1
    studies[:] = [study for study in studies if study.split]


def normal_key(value: Any, kind: str) -> str | None:
    """Normalize a key: "200.0" and " 200" become "200"; drop folders, and the suffix for "stem"."""
    try:
        key = patient_key(value)
    except TypeError:
        return None
    if key is None or kind not in ("stem", "name"):
        return key
    name = key.replace("\\", "/").rsplit("/", 1)[-1]
    return stem(name) if kind == "stem" else name


def rows_by_key(table: Table, column: str, kind: str, problems: ProblemList) -> dict[str, list[int]]:
    """Index rows by key; leave out and count identical repeats."""
    found: dict[str, list[int]] = {}
    for number, row in enumerate(table.rows):
        key = normal_key(row[column], kind)
        if key is None:
            text = f"{table.place(number)}: column '{column}' is {shorten(row[column])}; every row needs its key"
            problems.add("row without a key", text)
            table.dropped["row without a key"] += 1
            continue
        same = found.setdefault(key, [])
        if any(table.rows[other] == row for other in same):
            table.dropped["repeats another row"] += 1
        else:
            same.append(number)
    return found


def parse_time(value: Any, time_format: str | None) -> tuple[datetime, bool] | None:
    """Parse a time, and whether it has a clock time; None if unreadable. Time zones are ignored."""
    if isinstance(value, datetime):
        moment = pd.Timestamp(value).to_pydatetime().replace(tzinfo=None)
        return moment, bool(moment.time() != datetime.min.time())
    text = str(value).strip()
    try:
        moment = datetime.strptime(text, time_format) if time_format else datetime.fromisoformat(text.replace("Z", ""))
    except (ValueError, TypeError):
        return None
    clock = any(code in time_format for code in ("%H", "%I", "%c", "%X")) if time_format else len(text) > 10
    return moment.replace(tzinfo=None), clock


def is_later(record: tuple[datetime, bool], image: tuple[datetime, bool]) -> bool:
    """Tell whether a record is later than its image; compare dates if either has no clock time."""
    if record[1] and image[1]:
        return record[0] > image[0]
    return record[0].date() > image[0].date()


def time_of(row: Row, column: str, where: str, time_format: str | None, problems: ProblemList):
    """Return a row's time; None if empty, or unreadable (which adds a problem)."""
    if is_empty(row[column]):
        return None
    moment = parse_time(row[column], time_format)
    if moment is None:
        expected = time_format or "ISO 8601, as 2019-05-31 14:05"
        text = f"{where}: column '{column}' is {shorten(row[column])}; expected {expected} (--time-format changes it)"
        problems.add("unreadable time", text)
    return moment
