"""The steps that every public collection shares.

A collection's own file turns its tables into a :class:`Collection` without opening an image; from there on, reading
headers and images, cleaning values, placing boxes, splitting by patient and writing the folder are those of own data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.prepared import SPLITS, is_up_to_date, staged_folder
from mdf_detectron.data.pseudonyms import OPEN, Privacy
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.output import Account, write_folder
from mdf_detectron.data.sources.kit.table import Table, read_table
from mdf_detectron.data.sources.kit.values import parse_number
from mdf_detectron.data.sources.own.boxes import SourceAnnotations
from mdf_detectron.data.sources.own.joining import Study, read_tags
from mdf_detectron.data.sources.own.options import ColumnSpec, OwnOptions
from mdf_detectron.data.sources.own.prepare import Preparation, source_arguments
from mdf_detectron.data.splits import balanced_parts, patient_key
from mdf_detectron.errors import SourceDataError, shorten

ABSENT, NO_PATIENT, UNUSABLE_BOX = "image file absent", "no patient id", "unusable box"
TWO_SPLITS = "patient in two splits of the collection"


@dataclass
class Collection:
    """What the tables of a collection say.

    Attributes:
        title: of the report.
        source: the images that are used with their boxes, the classes, and the account of the others.
        studies: of ``source.images``: file, patient, raw values (``row``), and the split where the collection fixes it.
        schema: of the clinical columns; every one is read from ``row`` by its name, unless it is in ``tags``.
        tables: the files that were read.
        tags: column → DICOM keyword, for values that only the images' headers hold.
        choices: of the collection itself, for the report.
        has_times: the studies have the times of image and record, which are written too.
    """

    title: str
    source: SourceAnnotations
    studies: list[Study]
    schema: ClinicalSchema
    tables: Sequence[Path]
    tags: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    has_times: bool = False

    def column_specs(self) -> list[tuple[ColumnSpec, bool]]:
        """Where each column comes from, and whether that is a DICOM header."""
        return [(ColumnSpec(self.tags.get(name, name), name), name in self.tags) for name in self.schema.names]


def prepare_collection(
    read: Callable[[Account], Collection],
    out: str | Path,
    options: OwnOptions,
    *,
    on_error: str = "stop",
    num_workers: int = 2,
    privacy: Privacy = OPEN,
) -> bool:
    """Write the prepared folder; returns False if the same sources and options made the one that is there.

    Args:
        read: reads the tables; problems, notes and images that are left out go to the account that it gets.
        options: of seed, fractions, folds and images; the others are the collection's.
        on_error: "stop" with all problems, or "skip": leave entries out and count them.
        num_workers: processes that read images.
        privacy: what the folder may tell about patients.

    Raises:
        SourceDataError: broken tables or images, or nothing left to write.
    """
    privacy.check(options.image_size)
    out = Path(out).resolve()
    job = Preparation(replace(options, patient="patient"), privacy.problem_list(on_error), num_workers)
    collection = read(job)
    studies = _usable(collection.studies, job)
    if set_open_splits(studies, collection.source.class_names, options, job):
        job.options = replace(job.options, split_column="split")
    if collection.has_times:
        job.options = replace(job.options, time="time of the study")
    job.problems.stop_if_any()
    arguments = source_arguments(list(collection.tables), [s.path for s in studies], options, None, on_error)
    arguments |= dict(collection.choices)
    arguments |= privacy.arguments()
    if is_up_to_date(out, arguments) and all(p.exists() for p in (out / "images").rglob("*")):
        return False
    if collection.tags:
        read_tags(studies, list(collection.tags.values()), num_workers)
    source, schema = collection.source, collection.schema
    with staged_folder(out) as staging:
        records = job.make_records(source, studies, collection.column_specs(), schema, out, staging / "images")
        job.problems.stop_if_any()
        names = list(source.class_names)
        write_folder(job, job.options, staging, collection.title, arguments, records, names, schema, None)
        privacy.apply(staging)
    return True


def set_open_splits(studies: Sequence[Study], class_names: Sequence[str], options: OwnOptions, job: Account) -> bool:
    """Deal the studies without a split to the splits that the collection does not fix, by patient.

    Returns:
        whether the collection fixes any; else nothing is dealt.
    """
    fixed = {study.split for study in studies if study.split}
    if not fixed:
        return False
    shares = [(name, f) for name, f in zip(SPLITS, options.fractions, strict=True) if name not in fixed]
    rest = [study for study in studies if study.split is None]
    if rest and shares:
        counts = np.array([[sum(b["class"] == c for b in s.image.boxes) for c in class_names] for s in rest])
        wanted = np.array([share for _, share in shares])
        try:
            part = balanced_parts([s.patient for s in rest], counts, (wanted / wanted.sum()).tolist(), options.seed)
        except ValueError as error:
            raise SourceDataError(f"{error}; too few patients are left") from None
        for study, number in zip(rest, part, strict=True):
            study.split = shares[number][0]
    split_of: dict[str, str] = {}
    for study in studies:
        first = split_of.setdefault(study.patient, study.split)
        if first != study.split:
            text = f"{study.image.where}: patient {shorten(study.patient)} is in {first} and in {study.split}"
            job.problems.add(TWO_SPLITS, f"{text}; correct the table")
            study.split = None
    return True


def table_with(path: Path, columns: Sequence[str], job: Account, origin: str) -> Table:
    """Read a table that must have ``columns``.

    Args:
        origin: where the file comes from, for the message if it is absent.

    Raises:
        SourceDataError: absent, broken, or without a column.
    """
    if not path.is_file():
        raise SourceDataError(f"no {path}; it comes from {origin}")
    table = read_table(path, job.problems)
    table.require(columns, f"of {origin}")
    return table


def first_file(root: Path, names: Sequence[str], origin: str) -> Path:
    """The first of ``names`` below ``root`` that is there, plain or gzipped.

    Raises:
        SourceDataError: none is.
    """
    if not root.is_dir():
        raise SourceDataError(f"no folder {root}; --root is the folder of the downloaded files")
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise SourceDataError(f"no {root / names[0]}; it comes from {origin}")


def parse_box(values: Sequence[Any], place: str, job: Account) -> list[float] | None:
    """Read four numbers; anything else is a problem at ``place``, and None."""
    numbers = [parse_number(value)[0] for value in values]
    if len(numbers) == 4 and None not in numbers:
        return numbers
    listed = ", ".join(map(shorten, values))
    job.problems.add(UNUSABLE_BOX, f"{place}: box {listed}; expected four numbers")
    return None


def _usable(studies: Sequence[Study], job: Account) -> list[Study]:
    """The studies that have a patient and a file, the patient's id in its one spelling."""
    kept = []
    for study in studies:
        study.patient = patient_key(study.patient)
        if study.patient is None:
            job.image_drops[NO_PATIENT] += 1
            job.problems.add(
                NO_PATIENT, f"{study.image.where}: no patient id; without it the image cannot be split soundly"
            )
        elif not study.path.is_file():
            job.image_drops[ABSENT] += 1
            job.problems.add(ABSENT, f"{study.image.where}: no image file {study.path}; download it")
        else:
            kept.append(study)
    return kept
