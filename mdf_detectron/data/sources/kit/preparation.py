"""Run the steps from a collection's tables to the prepared folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.image_paths import stem
from mdf_detectron.data.prepared import SPLITS, PreparedImage, is_up_to_date, staged_folder
from mdf_detectron.data.pseudonyms import OPEN, Privacy
from mdf_detectron.data.sources.kit.account import Account, ProblemList
from mdf_detectron.data.sources.kit.boxes import CLIPPED, OTHER_SHAPE, place_boxes, shape_problem
from mdf_detectron.data.sources.kit.collection import Collection, Content, WriteOptions
from mdf_detectron.data.sources.kit.image_files import bring_images
from mdf_detectron.data.sources.kit.output import deal, write_folder
from mdf_detectron.data.sources.kit.studies import DICOM, SPLIT_WORDS, Study, read_tags
from mdf_detectron.data.sources.kit.table import read_table
from mdf_detectron.data.sources.kit.values import clean_value, fold
from mdf_detectron.data.splits import ROUNDED, ROUNDED_TEXT, is_rounded, patient_key
from mdf_detectron.errors import SourceDataError, shorten
from mdf_detectron.fileio import check_regular

NO_PATIENT, ABSENT, UNREADABLE = "no patient", "image file absent", "unreadable image"
TWO_SPLITS, NO_USABLE_BOX = "patient in several splits", "none of its boxes is usable"
KEYS, SPLIT = ("reading_id", "id", "dicom_id", "image_id", "image", "file_name"), "split"


def prepare(
    collection: Collection,
    out: str | Path,
    options: WriteOptions | None = None,
    *,
    on_error: str = "stop",
    num_workers: int = 2,
    privacy: Privacy = OPEN,
    **choices: Any,
) -> bool:
    """Write the prepared folder of a collection; return False if an up-to-date one exists.

    Args:
        options: splits and images; the collection's defaults if None.
        on_error: "stop": report all problems of the tables, then of the images; "skip": count and leave out entries.
        choices: arguments of the collection's reader.

    Raises:
        SourceDataError: broken tables or images, or nothing left to write.
    """
    if collection.write:
        return collection.write(out, **choices)
    options = options or WriteOptions(**collection.defaults)
    privacy.check(options.image_size)
    job = Preparation(Path(out).resolve(), options, on_error, num_workers, privacy)
    content = collection.read(job, **choices)
    if content is None:
        return False
    content.studies = job.usable(content.studies)
    job.set_open_splits(content)
    job.problems.stop_if_any()
    images = [study.path for study in content.studies]
    if not job.arguments and job.is_done(content.tables, images, content.choices):
        return False
    tags = [c.source.removeprefix(DICOM) for c in content.schema.columns if c.source.startswith(DICOM)]
    if content.studies and not set(tags) <= content.studies[0].tags.keys():
        read_tags(content.studies, tags, num_workers)
    with staged_folder(job.out) as folder:
        records = job.make_records(content, folder / "images")
        job.problems.stop_if_any()
        write_folder(job, content, options, folder, job.arguments, records)
        privacy.apply(folder)
    return True


class Preparation(Account):
    """The steps of a preparation and their shared account; :meth:`is_done` sets ``arguments``."""

    def __init__(
        self, out: Path, options: WriteOptions, on_error: str = "stop", num_workers: int = 2, privacy: Privacy = OPEN
    ) -> None:
        super().__init__(ProblemList(skip=on_error == "skip", show_values=privacy.show_values))
        self.out, self.options, self.num_workers = out, options, num_workers
        self._fixed = {**asdict(options), "on_error": on_error, **privacy.arguments()}
        self.arguments: dict[str, Any] = {}

    def is_done(self, tables: Sequence[Path], images: Sequence[Path], choices: Mapping[str, Any]) -> bool:
        """Tell whether the existing folder was made from the same files (name, size, time) and choices.

        A reader may call this before slow work; otherwise it is called once the tables are read.
        """
        files = (*tables, *images, *([Path(self.options.splits)] if self.options.splits else []))
        state = [(str(path), found.st_size, found.st_mtime_ns)
                 for path in files for found in (check_regular(path, SourceDataError),)]  # fmt: skip
        digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()
        named = {"tables": sorted({path.name for path in tables}), "sources": digest}
        self.arguments = json.loads(json.dumps({**self._fixed, **choices, **named}))
        return is_up_to_date(self.out, self.arguments) and all(p.exists() for p in (self.out / "images").rglob("*"))

    def usable(self, studies: Sequence[Study]) -> list[Study]:
        """Drop studies without a patient or a file; normalize the patient ids of the others."""
        kept = []
        for study in studies:
            raw, where = study.patient, study.image.where
            study.patient = patient_key(raw)
            if is_rounded(raw):
                self.drop(ROUNDED, f"{where}: patient {shorten(raw)}; {ROUNDED_TEXT}")
            elif study.patient is None:
                why = f" ({study.no_patient})" if study.no_patient else ""
                self.drop(NO_PATIENT, f"{where}: no patient{why}; an image without a patient cannot be split soundly")
            elif not study.path.is_file():
                self.drop(ABSENT, f"{where}: no image file {study.path}; download it again, or correct the folder")
            else:
                kept.append(study)
        return kept

    def set_open_splits(self, content: Content) -> None:
        """Divide studies without a split by patient among the splits that the collection does not define.

        If it defines none, all studies are divided when the folder is written.
        """
        if self.options.splits:
            set_splits_by_file(self.options.splits, content.studies, self.problems)
            self.image_drops["not in the file of --splits"] += sum(study.split is None for study in content.studies)
            content.studies = [study for study in content.studies if study.split]
        fixed = {study.split for study in content.studies if study.split}
        if not fixed:
            return
        shares = [(name, f) for name, f in zip(SPLITS, self.options.fractions, strict=True) if name not in fixed]
        rest = [study for study in content.studies if study.split is None]
        if rest and shares:
            names = content.source.class_names
            counts = np.array([[sum(b["class"] == name for b in s.image.boxes) for name in names] for s in rest])
            wanted = np.array([share for _, share in shares])
            parts = deal([s.patient for s in rest], counts, (wanted / wanted.sum()).tolist(), self.options.seed)
            for study, part in zip(rest, parts, strict=True):
                study.split = shares[part][0]
        if self.options.allow_shared_patients:
            shared = Counter(patient for patient, _ in {(study.patient, study.split) for study in content.studies})
            count = f"{sum(n > 1 for n in shared.values())} of {len(shared)} patients are in several splits"
            self.notes.append(f"**{count} (--allow-shared-patients): this folder leaks, its results are too good.**")
            return
        first_split: dict[str, str] = {}
        kept = []
        for study in content.studies:
            if study.split == first_split.setdefault(study.patient, study.split):
                kept.append(study)
                continue
            splits = f"is in {first_split[study.patient]} and in {study.split}"
            text = f"{study.image.where}: patient {shorten(study.patient)} {splits}"
            accept = ", or accept it with --allow-shared-patients" if self.options.splits else ""
            self.drop(TWO_SPLITS, f"{text}; put all images of a patient in one split{accept}")
        content.studies = kept

    def make_records(self, content: Content, folder: Path) -> list[tuple[PreparedImage, str | None]]:
        """Read the images into ``folder`` and return records, each with its split if it has one."""
        o, source = self.options, content.source
        names = _target_names([s.path for s in content.studies], o.image_size is not None)
        copies = {"image_size": o.image_size, "bit_depth": o.bit_depth, "copy": o.copy_images}
        results = dict(zip(names, bring_images(names.items(), self.out, folder, **copies,
                                               num_workers=self.num_workers), strict=True))  # fmt: skip
        for result in results.values():
            if isinstance(result, str):
                self.problems.add(UNREADABLE, result)
        dropped, records = Counter(source.dropped), []
        for study in content.studies:
            file, boxes, reason = results[study.path], [], None
            if isinstance(file, str):
                reason = UNREADABLE
            elif text := shape_problem(study.image, file):
                self.problems.add(OTHER_SHAPE, text)
                reason = OTHER_SHAPE
            else:
                boxes = place_boxes(study.image, file, source.class_names, dropped, self.box_changes)
                if (study.image.boxes or study.image.unusable) and not boxes:
                    reason = NO_USABLE_BOX  # an image whose findings have no usable box is not healthy
            if reason:
                self.image_drops[reason] += 1
                continue
            row = {}
            for column in content.schema.columns:
                raw = study.value(column.source or column.name)
                row[column.name] = clean_value(raw, column, self.log, content.schema.table)
            times = {"study_time": study.times[0], "row_time": study.times[1]} if content.has_times else {}
            name, extra = names[study.path], {**study.extra, **times}
            image = PreparedImage(name, file.width, file.height, study.patient, row, boxes, extra, file.sha256)
            records.append((image, study.split))
            self.files[name] = file
        for name in set(names.values()) - self.files.keys():
            (folder / name).unlink(missing_ok=True)
        self._account(content, records, dropped)
        return records

    def _account(self, content: Content, records: Sequence[Any], dropped: Counter[str]) -> None:
        source = content.source
        self.flow.add("annotated images", source.images_in, len(records), self.image_drops)
        boxes = sum(len(image.annotations) for image, _ in records)
        dropped["its image was dropped"] += source.boxes_in - boxes - sum(dropped.values())
        self.flow.add("boxes", source.boxes_in, boxes, dropped)
        if 2 * self.box_changes[CLIPPED] > boxes:
            self.notes.append(f"**{self.box_changes[CLIPPED]} of {boxes} boxes reach beyond their images**: corners in "
                              "the place of a size, or boxes of other images?")  # fmt: skip
        values = len(records) * len(content.schema.columns)
        self.flow.add("clinical values", values, values - sum(self.log.removed.values()), self.log.dropped())


def _target_names(paths: Sequence[Path], as_png: bool) -> dict[Path, str]:
    """Give each file a unique name below images/; add a number if another file has that name."""
    taken: Counter[str] = Counter()
    names = {}
    for path in dict.fromkeys(paths):
        first = f"{stem(path.name)}.png" if as_png else path.name
        taken[first.casefold()] += 1
        count = taken[first.casefold()]
        names[path] = first if count == 1 else f"{Path(first).stem}~{count}{Path(first).suffix}"
    return names


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
        for name in {*readings, study.image.image_id, study.image.name, study.path.name, stem(study.path.name)}:
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
