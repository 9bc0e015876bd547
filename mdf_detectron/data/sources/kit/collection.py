"""Define a collection, the content that its reader returns, and the options shared by all collections."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdf_detectron.data.prepared import PreparedImage
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, Study
from mdf_detectron.errors import SourceDataError


@dataclass(frozen=True)
class Collection:
    """A collection; every source module ends in one.

    Attributes:
        name: command name after ``mdf prepare``.
        about: text of ``mdf prepare NAME --help``; its first line is the one-line help.
        read: ``read(job, **choices)`` reads the tables, without opening images, into a :class:`Content`; None if
            ``job.is_done(...)``.
        schema: clinical columns; None if they depend on the data.
        options: ``options(parser)`` declares the collection's own arguments; each is passed to ``read`` by name.
        example: these arguments in a typical call, for messages.
        defaults: shared arguments whose default differs for this collection.
        write: replaces ``read`` and the shared arguments: ``write(out, **choices)`` writes the whole folder, or
            returns False if an identical one exists.
    """

    name: str
    about: str
    read: Callable[..., Content | None] | None = None
    schema: ClinicalSchema | None = None
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    example: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[..., bool] | None = None

    @property
    def help(self) -> str:
        return self.about.strip().partition("\n")[0].rstrip(".")


AGE = ClinicalColumn("age", "numeric", "years", 0, 120)
SEX = ClinicalColumn("sex", "categorical", vocabulary=("F", "M"))
VIEW = ClinicalColumn("view", "categorical", vocabulary=("PA", "AP"), description="AP is mostly taken in bed")


def root_option(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--root", required=True, metavar="DIR", help=text)


@dataclass(frozen=True)
class ColumnSpec:
    """A clinical column: its source (a column, or "dicom:TAG"), its name, and a mapping of spellings."""

    source: str
    name: str
    mapping: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Content:
    """What the tables of a collection say.

    Attributes:
        source: classes, and counts of images and boxes.
        schema: clinical columns, each read from its source (by default its name) as ``schema.table`` says.
        tables: files read; they and the image files decide whether a folder is up to date.
        choices: the collection's own options, for the report.
        schema_text, schema_questions: commented file of a proposed schema, and (column, question) about it.
        has_times: write the times of image and record too.
        split_patients: False splits images regardless of patients, which leaks.
        details: called with the splits; returns further entries of the report.
    """

    title: str
    source: SourceAnnotations
    studies: list[Study]
    schema: ClinicalSchema
    tables: Sequence[Path] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    schema_text: str | None = None
    schema_questions: Sequence[tuple[str, str]] = ()
    has_times: bool = False
    split_patients: bool = True
    details: Callable[[Mapping[str, Sequence[PreparedImage]]], dict[str, Any]] | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How to split and write a prepared folder.

    Attributes:
        fractions: of train, val and test.
        folds: if above 0, also write this many cross-validation folders.
        splits: table of readings or images and their splits (:func:`~.preparation.set_splits_by_file`); drop others.
        allow_shared_patients: accept a patient in several of these splits.
        image_size, bit_depth, copy_images: see :func:`~mdf_detectron.data.sources.kit.image_files.bring_images`.
    """

    fractions: Sequence[float] = (0.7, 0.15, 0.15)
    seed: int = 1
    folds: int = 0
    image_size: int | None = None
    bit_depth: int = 8
    copy_images: bool = False
    splits: str | None = None
    allow_shared_patients: bool = False

    def __post_init__(self) -> None:
        f = self.fractions
        for refused, text in (
            (self.bit_depth not in (8, 16), f"--bit-depth is 8 or 16, not {self.bit_depth}"),
            (self.bit_depth == 16 and self.image_size is None,
             "--bit-depth 16 needs copies: name their shorter side with --image-size"),
            (self.image_size is not None and self.image_size < 32,
             f"--image-size must be at least 32 pixels, got {self.image_size}"),
            (self.folds < 0 or self.folds in (1, 2),
             f"--folds must be 0 (none) or at least 3 (train, val, test), got {self.folds}"),
            (self.splits and self.folds, "--splits and --folds exclude each other: folds split the patients again"),
            (self.allow_shared_patients and not self.splits, "--allow-shared-patients goes with --splits FILE"),
            (len(f) != 3 or abs(sum(f) - 1) > 1e-9 or not all(math.isfinite(x) and x > 0 for x in f),
             f"--fractions must be three positive numbers that sum to 1, got {', '.join(map(str, f))}"),
        ):  # fmt: skip
            if refused:
                raise SourceDataError(text)
