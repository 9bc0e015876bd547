"""Find the file, table row, patient, times and split of each annotated image."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mdf_detectron.data.image_paths import PathIndex, meant_paths, original_stems, path_key, version_of
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.studies import SPLIT_WORDS, SourceImage, Study
from mdf_detectron.data.sources.kit.table import Row, Table, read_table
from mdf_detectron.data.sources.kit.values import fold, is_empty
from mdf_detectron.data.sources.own.options import DICOM_TIME, FILE_KINDS, REGEX_KINDS, OwnOptions
from mdf_detectron.data.splits import ROUNDED, ROUNDED_TEXT, is_rounded, patient_key
from mdf_detectron.data.times import dicom_time, is_later, parse_time
from mdf_detectron.errors import SourceDataError, shorten

NO_SPLIT, OF_SEVERAL_TASKS = "no split", "put together with the same image's other entry"
SEVERAL_ROWS, UNREADABLE_TIME = "several rows of one key", "unreadable time"
NO_ROW, LATE = "no row of the table", "record later than its image"


def find_files(
    images: Sequence[SourceImage], files: Sequence[Path], folder: Path, problems: ProblemList, drops: Counter[str]
) -> list[Study]:
    """Find the file of each image by its path, without folders that only the labeling tool knew; it must be unique.

    A file of that name in another folder is another image: where any name's folders exist, they count for all names.
    """
    names = [(path.relative_to(folder).as_posix(), path) for path in files]
    indices = [PathIndex((path_key(name, suffix), path) for name, path in names) for suffix in (True, False)]
    found = [_file_of(image.name, *indices) for image in images]
    real = {dropped for _, dropped, in_folder in found if in_folder}
    studies, owner = [], {}
    for image, (candidates, dropped, in_folder) in zip(images, found, strict=True):
        candidates = [p for p in candidates if p.parent.as_posix().endswith(f"/{image.folder}")] or candidates
        if not candidates or (dropped and not in_folder and real - {dropped}):
            other = f", and {candidates[0].relative_to(folder)} is in another folder" if candidates else ""
            reason, text = "no file of that name", f"no file of that name below {folder}{other}; --images is its folder"
        elif len(candidates) > 1:
            listed = ", ".join(p.relative_to(folder).as_posix() for p in candidates[:3])
            reason, text = "several files of that name", f"several files may be meant ({listed}); write the path"
        elif (other := owner.get(candidates[0])) and other.task != image.task and other.size == image.size:
            other.boxes += image.boxes
            other.unusable += image.unusable
            other.tasks += 1
            drops[OF_SEVERAL_TASKS] += 1
            continue
        elif other:
            reason, text = "file of another entry", f"its file {candidates[0].name} belongs to {other.where} too"
        else:
            owner[candidates[0]] = image
            studies.append(Study(image, candidates[0]))
            continue
        problems.add(reason, f"{image.where}: {text}")
        drops[reason] += 1
    return studies


def _file_of(name: str, whole: PathIndex[Path], stems: PathIndex[Path]) -> tuple[list[Path], str, bool]:
    """Return the files that a name may mean, its folders that they are not in, and whether they are in one of it."""
    for meant in meant_paths(name):
        for index, key in ((whole, path_key(meant, True)), (stems, path_key(meant))):
            files, dropped = index.find(key)
            if files:
                return files, dropped, "/" in key[len(dropped) :].lstrip("/")
    for original in original_stems(name):  # the tool renamed the file, and its folders are the tool's
        if files := stems.find(path_key(original))[0]:
            return files, "", False
    return [], "", False


def read_keyed_table(path: Path, options: OwnOptions, problems: ProblemList) -> Table:
    """Read the table of clinical values; the options must name the column of its keys."""
    table = read_table(path, problems, encoding=options.encoding, sheet=options.sheet)
    if options.key_column is None:
        raise SourceDataError(f"{path}: which column names the image of a row? Name it with --key COLUMN, or "
                              f"--key COLUMN=TAG for a DICOM tag; it has {', '.join(table.columns)}")  # fmt: skip
    return table


def join_table(
    studies: list[Study], table: Table, options: OwnOptions, folder: Path, problems: ProblemList, drops: Counter[str]
) -> Counter[str]:
    """Set the row and the times of each study; return counts of used and unused table rows, by reason.

    A study whose rows are all later than its image stays, without a record: at its time, nothing was known. A study
    with several different rows, or unreadable times, is removed and counted in ``drops``: its record is unknown, and
    keeping it without one would suggest that its values are missing.
    """
    column, kind = options.key_column or "", options.key_kind
    found = rows_by_key(table, column, kind, problems)
    keys = _keys_of_studies(studies, kind, found, folder)
    used, refused, kept = set(), {}, []
    for study, (own, ambiguous) in zip(studies, keys, strict=True):
        numbers = [number for key in own for number in found[key]]
        study.identity = table.rows[numbers[0]] if numbers else {}
        moment = _image_time(study, table, numbers, options, problems)
        usable, why_not = _usable_rows(study, table, numbers, moment, options, problems)
        refused |= why_not
        rows_of, text = f"rows of one {column} ({shorten(study.identity.get(column))}) that differ", ""
        if not usable and UNREADABLE_TIME in why_not.values():
            drops[UNREADABLE_TIME] += 1
            study.no_record = problems.listed[UNREADABLE_TIME][-1]
            continue
        if ambiguous:
            text = f"{ambiguous}; write the whole path"
        elif differing := _differing_column([table.rows[n] for n in numbers], options):
            text = f"{rows_of} in {differing}, which is the image's; write the same, or name each image with --key"
        elif len(usable) > 1 and not options.record_time:
            text = f"several {rows_of}; keep one, or name the time of each with --record-time"
        if text:
            study.no_record = f"{', '.join(table.place(n) for n in numbers[:3])}: {text}"
            problems.add(SEVERAL_ROWS, study.no_record)
            drops[SEVERAL_ROWS] += 1
            continue
        kept.append(study)
        number, recorded = max(usable, key=lambda p: (p[1] is not None, p[1] and p[1].utc, -p[0]), default=(None, None))
        study.times = (moment and str(moment), recorded and str(recorded))
        if number is None:
            study.no_record = LATE if why_not else NO_ROW
        else:
            used.add(number)
            study.row = table.rows[number]
    if not used and not problems.counts:
        rows, files = (", ".join(map(repr, texts)) for texts in (
            list(found)[:3], [_keys(study, kind, folder)[0] for study in studies[:3]]))  # fmt: skip
        raise SourceDataError(
            f"{table.path}: no row belongs to any image: column '{column}' has {rows}, the images' {kind} {files}; "
            f"see --key, and write --key '{column}=stem=REGEX' if the key is a part of the file's name"
        )
    studies[:] = kept
    rest = Counter(reason for number, reason in refused.items() if number not in used)
    rest["used"] = len(used)
    rest["no image, or an earlier record of one"] = sum(map(len, found.values())) - sum(rest.values())
    return rest


def _keys_of_studies(
    studies: Sequence[Study], kind: str, found: Collection[str], folder: Path
) -> list[tuple[list[str], str]]:
    """Return each study's keys in the table, and why they are not sure to be its own ("" if they are).

    A row of a file is one image's, that of its very path, or all augmented versions' of one image.
    """
    if kind not in FILE_KINDS:
        return [([key for key in _keys(study, kind, folder) if key in found], "") for study in studies]
    index, result, claims = PathIndex((key, key) for key in found), [], {}
    for study in studies:
        names = _keys(study, kind, folder)
        result.append((version_of(names[0]) or names[0], next(filter(None, (index.find(n)[0] for n in names)), [])))
        for key in result[-1][1]:
            claims.setdefault(key, {})[result[-1][0]] = None
    for at, (name, several) in enumerate(result):
        keys, why = [key for key in several if key == name or key not in claims[key]], ""
        if keys and len(several) > 1:
            why = f"{name} may be {' or '.join(several[:3])}"
        elif keys and keys[0] != name and len(claims[keys[0]]) > 1:
            why = f"{keys[0]} may be {' or '.join(list(claims[keys[0]])[:3])}"
        result[at] = keys, why
    return result


def _keys(study: Study, kind: str, folder: Path) -> list[str]:
    """List the keys that a study may have in a table, best first."""
    if kind in FILE_KINDS:
        names = [study.path.relative_to(folder).as_posix(), *meant_paths(study.image.name)]
        names += [one for name in names[:2] for one in original_stems(name)] if kind == "stem" else []
        return [path_key(name, kind == "name") for name in names]
    raw = part_of(study, kind, folder) if "=" in kind else study.image.image_id if kind == "id" else study.tags[kind]
    return [normal_key(raw, "id") or ""]


def part_of(study: Study, how: str, folder: Path) -> str | None:
    """Return the first group of REGEX in ``how``, "stem=REGEX" or "path=REGEX"; None where it does not match."""
    kind, _, pattern = how.partition("=")
    path = path_key(study.path.relative_to(folder).as_posix())
    match = re.search(pattern, path if kind == "path" else path.rpartition("/")[2])
    return match and match[1]


def _image_time(study: Study, table: Table, numbers: list[int], options: OwnOptions, problems: ProblemList):
    if options.time == DICOM_TIME:
        return dicom_time(study.tags)
    number = next((n for n in numbers if _is_filled(table.rows[n], options.time)), None)
    return None if number is None else time_of(table, number, options.time, options.time_format, problems)


def _differing_column(rows: Sequence[Row], options: OwnOptions) -> str:
    """Return a column that is the image's, not its record's, and in which rows of one image differ, or ""."""
    for column in (options.time, options.patient, options.split_column, options.class_column):
        given = [row[column] for row in rows if _is_filled(row, column)]
        is_time = column == options.time
        if len({parse_time(v, options.time_format) if is_time else normal_key(v, "id") for v in given}) > 1:
            return column
    return ""


def _usable_rows(study: Study, table: Table, numbers: list[int], moment, options: OwnOptions, problems: ProblemList):
    """Return (row, its time) of rows not later than the image, and why each other row is not used.

    A later row leaks the future; if either time is unreadable, the row may be later and is refused too.
    """
    if options.record_time is None:
        return [(number, None) for number in numbers], {}
    kept, refused = [], {}
    first_late = ""
    image_unreadable = moment is None and any(_is_filled(table.rows[n], options.time) for n in numbers)
    for number in numbers:
        recorded = time_of(table, number, options.record_time, options.time_format, problems)
        later = is_later(recorded, moment) if moment and recorded else False
        text = f"{table.place(number)}: record of {recorded}, its image {study.image.name} is of {moment}"
        if image_unreadable or (recorded is None and _is_filled(table.rows[number], options.record_time)):
            refused[number] = UNREADABLE_TIME
        elif later is None:
            refused[number] = UNREADABLE_TIME
            problems.add(UNREADABLE_TIME, f"{text}; one names its time zone: write both with it, or both without")
        elif later:
            refused[number] = LATE
            first_late = first_late or f"{text}; a later record knows what followed: leave it out"
        else:
            kept.append((number, recorded))
    if first_late and not kept:
        problems.add(LATE, first_late)
    return kept, refused


def _is_filled(row: Row, column: str | None) -> bool:
    return column in row and not is_empty(row[column])


def set_patients(studies: list[Study], options: OwnOptions, folder: Path) -> int:
    """Set each study's patient, or why it has none; if no option is given, each image is a patient.

    Augmented versions of one image are then one patient; return their number.
    """
    versions = 0
    for study in studies:
        if options.patient is None:
            original = version_of(study.image.name) or version_of(study.path.name)
            study.patient = f"image {original or study.image.name}"
            versions += original is not None
            continue
        kind, _, name = options.patient.partition(":")
        if options.patient.startswith(REGEX_KINDS):
            raw = part_of(study, options.patient, folder)
        else:
            raw = study.tags[name] if kind == "dicom" and name else study.identity.get(options.patient)
        study.patient = None if is_empty(raw) else raw
        study.no_patient = f"{options.patient} is {shorten(raw)}"
    return versions


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
    """Normalize a key: "200.0" and " 200" become "200"; for files, see :func:`path_key`."""
    try:
        key = patient_key(value)
    except TypeError:
        return None
    return path_key(key, kind == "name") or None if key and kind in FILE_KINDS else key


def rows_by_key(table: Table, column: str, kind: str, problems: ProblemList) -> dict[str, list[int]]:
    """Index rows by key; leave out and count identical repeats."""
    found: dict[str, list[int]] = {}
    for number, row in enumerate(table.rows):
        key = normal_key(row[column], kind)
        if key is None or is_rounded(row[column]):
            kind_of, why = ("row without a key", "every row needs its key") if key is None else (ROUNDED, ROUNDED_TEXT)
            problems.add(kind_of, f"{table.place(number)}: column '{column}' is {shorten(row[column])}; {why}")
            table.dropped[kind_of] += 1
            continue
        same = found.setdefault(key, [])
        if any(table.rows[other] == row for other in same):
            table.dropped["repeats another row"] += 1
        else:
            same.append(number)
    return found


def time_of(table: Table, number: int, column: str, time_format: str | None, problems: ProblemList):
    """Return a row's time; None if empty, or unreadable (which adds a problem)."""
    value, expected = table.rows[number][column], time_format or "ISO 8601, as 2019-05-31 14:05"
    moment = parse_time(value, time_format)
    if moment is None and not is_empty(value):
        text = f"column '{column}' is {shorten(value)}; expected {expected} (--time-format changes it)"
        problems.add(UNREADABLE_TIME, f"{table.place(number)}: {text}")
    return moment
