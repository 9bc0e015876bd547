"""Predict many studies into files, resumably; a study that fails does not stop the others.

Each finished study is a line of ``<out>/progress.jsonl``. A later run with the same model and options predicts only
studies that are not in it; a changed image or record counts as new.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mdf_detectron.data.readers import OpenImage
from mdf_detectron.data.study_records import FoundRecord
from mdf_detectron.errors import DatasetError, UserError, shorten
from mdf_detectron.evaluation.coco import PREDICTIONS_FILE_NAME
from mdf_detectron.fileio import csv_table, finite_or_none, write_errors, write_json, write_text
from mdf_detectron.inference.findings import StudyFindings
from mdf_detectron.inference.predictor import Predictor, PreparedStudy

logger = logging.getLogger(__name__)

PROGRESS_FILE_NAME = "progress.jsonl"
_FOLDERS = {"png": ("pictures", ".png"), "dicom-sr": ("reports", ".dcm")}
_READ_AHEAD = 4

ReportWriter = Callable[[Path, StudyFindings, Path], Any]
"""(file to write, findings, source image): writes a structured report."""


@dataclass(frozen=True)
class Study:
    """One study to predict.

    Attributes:
        path: of the image.
        name: of the image in the results.
        image_id: of the image in COCO results.
        record: returns the clinical record for the opened image, or raises :class:`~mdf_detectron.errors.UserError`.
    """

    path: Path
    name: str
    image_id: Any
    record: Callable[[OpenImage], FoundRecord] = field(default=lambda image: FoundRecord())


@dataclass(frozen=True)
class RunResult:
    """Counts of a run.

    Attributes:
        predicted: studies that this run predicted.
        resumed: studies taken from an earlier run.
        without_record: studies of both kinds whose record has no value.
        findings: above the threshold, in each study of both kinds.
        errors: (name, message) of each study that failed.
    """

    predicted: int
    resumed: int
    without_record: int
    findings: list[int]
    errors: list[tuple[str, str]]


def run_predictions(
    predictor: Predictor,
    studies: Sequence[Study],
    out: Path,
    formats: Sequence[str],
    *,
    batch_size: int = 1,
    write_report: ReportWriter | None = None,
) -> RunResult:
    """Predict studies and write the results to the folder ``out``.

    Args:
        formats: any of "json", "csv", "coco", "png" and "dicom-sr"; ``findings.json`` is always written.
        batch_size: studies per forward pass. Scores depend on it in their last digits; with 1, float32 scores equal
            those of ``--eval-only`` exactly.
        write_report: required for "dicom-sr".
    """
    made_by = {"model": predictor.digest, "thresholds": predictor.thresholds}
    if predictor.half:
        made_by["precision"] = "float16"
    progress = _Progress(out / PROGRESS_FILE_NAME, made_by)
    entries: dict[int, dict[str, Any]] = {}
    errors: list[tuple[str, str]] = []
    resumed = 0

    def read(number: int, study: Study) -> tuple[str, PreparedStudy | None]:
        """Return a study's fingerprint and its prepared form, or None if it is already done."""
        with OpenImage(study.path) as image:
            found = study.record(image)
            if found.error:
                raise DatasetError(found.error)
            record = found.values
            key = _fingerprint(study, record)
            done = key in progress.done and all(_side_file(out, f, number, study).exists() for f in formats)
            if done:
                return key, None
            ready = predictor.prepare(image, record, study.name)
            return key, replace(ready, notes=[*ready.notes, *found.notes])

    with progress, tqdm(total=len(studies), unit="image", desc="predicting") as bar:

        def prepared() -> Iterator[tuple[int, Study, str, PreparedStudy]]:
            nonlocal resumed
            for number, (study, future) in enumerate(zip(studies, _ahead(read, studies), strict=True)):
                try:
                    key, ready = future.result()
                except Exception as error:  # decoders raise anything on damaged files; no image may end the run
                    errors.append((study.name, _reason(error)))
                    bar.update()
                    continue
                if ready is not None:
                    yield number, study, key, ready
                    continue
                entries[number] = progress.done[key]
                resumed += 1
                bar.update()

        for batch in _batches(prepared(), batch_size):
            answers = predictor.predict([ready for *_, ready in batch])
            for (number, study, key, _), findings in zip(batch, answers, strict=True):
                try:
                    _write_side_files(out, formats, number, study, findings, write_report)
                except Exception as error:  # highdicom raises anything if the image's tags break DICOM's rules
                    errors.append((study.name, _reason(error)))
                else:
                    entries[number] = {"findings": findings.to_dict(), "coco": findings.to_coco(study.image_id)}
                    progress.add(key, entries[number])
                bar.update()
    ordered = [(studies[number], entries[number]) for number in sorted(entries)]
    _write_results(out, formats, ordered, predictor)
    write_json(out / "errors.json", [{"image": name, "error": message} for name, message in errors])
    empty = sum(not any(v is not None for v in e["findings"]["record"].values()) for _, e in ordered)
    above = [sum(f["above_threshold"] for f in e["findings"]["findings"]) for _, e in ordered]
    return RunResult(len(entries) - resumed, resumed, empty, above, errors)


def _reason(error: Exception) -> str:
    line = " ".join(str(error).split())
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}".removesuffix(": ")


def _fingerprint(study: Study, record: Mapping[str, Any] | None) -> str:
    status = study.path.stat()
    what = [str(study.path), study.name, study.image_id, status.st_size, status.st_mtime_ns, record]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _ahead(read: Callable[[int, Study], Any], studies: Sequence[Study]) -> Iterator[Future]:
    """Read a few studies ahead of the model, in other threads."""
    with ThreadPoolExecutor(2) as pool:
        waiting = (pool.submit(read, number, study) for number, study in enumerate(studies))
        ahead = list(islice(waiting, _READ_AHEAD))
        while ahead:
            yield ahead.pop(0)
            ahead += islice(waiting, 1)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch


def _side_file(out: Path, kind: str, number: int, study: Study) -> Path:
    """Return the path of an image's own file, or ``out`` for a format with one file for all images."""
    if kind not in _FOLDERS:
        return out
    folder, suffix = _FOLDERS[kind]
    return out / folder / f"{number + 1:04d}_{study.path.stem[:80]}{suffix}"


def _write_side_files(
    out: Path,
    formats: Sequence[str],
    number: int,
    study: Study,
    findings: StudyFindings,
    write_report: ReportWriter | None,
) -> None:
    if "png" in formats:
        findings.draw(_side_file(out, "png", number, study))
    if "dicom-sr" in formats:
        if write_report is None:
            raise ValueError("the format dicom-sr needs a write_report")
        write_report(_side_file(out, "dicom-sr", number, study), findings, study.path)


def _write_results(out: Path, formats: Sequence[str], ordered: list[tuple[Study, dict]], predictor: Predictor) -> None:
    write_json(out / "findings.json", [entry["findings"] for _, entry in ordered])
    if "csv" in formats:
        write_text(out / "findings.csv", csv_table(*_csv_rows([entry["findings"] for _, entry in ordered])))
    if "coco" in formats:
        results = [result for _, entry in ordered for result in entry["coco"]]
        write_json(out / PREDICTIONS_FILE_NAME, results, indent=None)
        images = [
            {"id": s.image_id, "file_name": s.name, "width": e["findings"]["width"], "height": e["findings"]["height"]}
            for s, e in ordered
        ]
        ids = zip(predictor.contents["category_ids"], predictor.class_names, strict=True)
        categories = [{"id": category, "name": name} for category, name in ids]
        write_json(out / "coco_images.json", {"images": images, "categories": categories, "annotations": []})


def _csv_rows(studies: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    header = ["image", "class", "score", "probability", "x0", "y0", "x1", "y1", "above_threshold"]
    rows = [
        [study["image"], f["class"], f["score"], f.get("probability", ""), *f["box"], f["above_threshold"]]
        for study in studies
        for f in study["findings"]
    ]
    return header, rows


class _Progress:
    """The file of finished studies; its first line names their model and options."""

    def __init__(self, path: Path, header: Mapping[str, Any]):
        self.path, self.header = path, json.dumps(finite_or_none(dict(header)), sort_keys=True)
        self.done: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> _Progress:
        kept = self._kept_lines()
        write_text(self.path, "\n".join([self.header, *kept]) + "\n")  # drops a truncated line
        with write_errors(self.path):
            self._file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _kept_lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        # a killed run may leave part of a line
        header, *whole = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] or [""]
        if header != self.header and whole:
            text = "its first line names another model or options, or is damaged; its %d image(s) are predicted again"
            logger.warning(f"%s: {text}", self.path, len(whole))
            return []
        kept = [line for line in whole if line == _line("{" + line[_CRC_LENGTH:])]
        if damaged := len(whole) - len(kept):
            logger.warning("%s: %d damaged line(s); these images are predicted again", self.path, damaged)
        for entry in map(json.loads, kept):
            self.done[entry["key"]] = {"findings": entry["findings"], "coco": entry["coco"]}
        return kept

    def add(self, key: str, entry: Mapping[str, Any]) -> None:
        self._file.write(_line(json.dumps(finite_or_none({"key": key, **entry}), allow_nan=False)) + "\n")
        self._file.flush()


_CRC_LENGTH = len('{"crc": "01234567", ')


def _line(entry: str) -> str:
    """Return a JSON object with its checksum as the first key."""
    return f'{{"crc": "{zlib.crc32(entry.encode()):08x}", {entry[1:]}'


def first_error(errors: Sequence[tuple[str, str]]) -> str:
    """Return one line on the failed studies: how many, and the first one's message."""
    name, message = errors[0]
    return f"{len(errors)} image(s) failed; the first, {shorten(name)}: {message}"
