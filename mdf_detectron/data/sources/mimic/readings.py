"""What readers left: the metadata of each reading, and the file of its ellipses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.values import ProblemList
from mdf_detectron.data.sources.mimic.schema import KNOWN_LABELS, MERGED_LABELS
from mdf_detectron.data.sources.mimic.source_table import OTHER_LENGTH, UNUSABLE_FILE, check_columns
from mdf_detectron.errors import SourceDataError
from mdf_detectron.fileio import read_csv

ELLIPSE_FILE = "anomaly_location_ellipses.csv"


CORNERS = ("xmin", "ymin", "xmax", "ymax")


_READING = re.compile(r"P([123])\d{2}R\d{6}")


_METADATA_COLUMNS = ("id", "eye_tracking_data_discarded", "dicom_id", "subject_id", "image_size_x", "image_size_y")


_TRUE = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": False}


class _Unusable(Exception):
    """A broken row: (kind, what is wrong)."""


def read_readings(paths: Sequence[Path], problems: ProblemList, flow: Flow) -> pd.DataFrame:
    """All readings of the metadata files, in the files' order.

    Returns:
        reading_id (str, unique), phase (1–3), dicom_id (str), subject_id, width, height (int, pixels of the
        full-resolution image), discarded (bool) and certainty of every label after merging (float, columns named
        ``certainty: <label>``; NaN where the phase does not have the label).

    Raises:
        SourceDataError: a file without the needed columns, or a broken row unless problems are skipped.
    """
    readings: dict[str, dict[str, Any]] = {}
    rows_in, dropped = 0, Counter()
    for path in paths:
        try:
            rows = _read_rows(path, _METADATA_COLUMNS)
        except SourceDataError as error:
            if len(paths) == 1:
                raise
            problems.add(UNUSABLE_FILE, str(error))
            continue
        rows_in += len(rows)
        for line, row in rows:
            try:
                reading = _reading(row)
                if reading["reading_id"] in readings:
                    raise _Unusable("duplicated reading", f"id {row['id']!r} stands there a second time")
                readings[reading["reading_id"]] = reading
            except _Unusable as error:
                problems.add(error.args[0], f"{path} line {line}: {error.args[1]}")
                dropped[error.args[0]] += 1
    if not readings:
        problems.stop_if_any()
        raise SourceDataError(f"no reading in {', '.join(map(str, paths[:3]))}; download the tables again")
    flow.add("rows of the readers' metadata", rows_in, len(readings), dropped)
    return pd.DataFrame(readings.values())


def _reading(row: dict[str | None, Any]) -> dict[str, Any]:
    _require_length(row)
    match = _READING.fullmatch(row["id"])
    if not match:
        raise _Unusable("unusable reading id", f"id {row['id']!r}; expected P<phase><trial>R<six digits>")
    numbers = {name: _number(row[name]) for name in ("subject_id", "image_size_x", "image_size_y")}
    for name, value in numbers.items():
        if value is None or value != int(value) or value <= 0:
            raise _Unusable(f"unusable {name}", f"{name} {row[name]!r}; expected a positive whole number")
    name = "eye_tracking_data_discarded"
    discarded = _TRUE.get(row[name].strip().lower())
    if discarded is None:
        raise _Unusable(f"unusable {name}", f"{name} {row[name]!r}; expected True or False")
    certainties: dict[str, float] = {}
    for name, text in row.items():
        label, value = MERGED_LABELS.get(name, name), _number(text)
        if label in KNOWN_LABELS and value is not None and label != "Support devices":
            key = f"certainty: {label}"
            certainties[key] = max(certainties.get(key, 0.0), value)
    return {
        "reading_id": row["id"],
        "phase": int(match[1]),
        "dicom_id": row["dicom_id"],
        "subject_id": int(numbers["subject_id"]),
        "width": int(numbers["image_size_x"]),
        "height": int(numbers["image_size_y"]),
        "discarded": discarded,
        **certainties,
    }


def read_ellipses(
    readings: pd.DataFrame, folders: Sequence[Path], problems: ProblemList, flow: Flow
) -> tuple[pd.DataFrame, set[str]]:
    """Every (ellipse, label) pair of the readings.

    Args:
        readings: of :func:`read_readings`.
        folders: where the readings' folders may lie; the first that has one is taken.
        problems, flow: get the broken rows and the stage "rows of the ellipse files".

    Returns:
        Pairs: reading_id, ellipse (number in its file), label (after merging), certainty (1–5), xmin, ymin, xmax, ymax
        (float pixels, as written); an ellipse that only carries merged twins gives one pair.  And the readings whose
        file is absent or cannot be used: what they saw is unknown, which is not the same as nothing.
    """
    by_name = _index_folders(folders) if len(folders) > 1 else {}
    pairs: list[tuple] = []
    rows_in, kept, dropped, without_file = 0, 0, Counter(), set()
    for reading_id in readings["reading_id"]:
        path = by_name.get(reading_id, folders[0] / reading_id) / ELLIPSE_FILE
        rows = _ellipse_rows(path, reading_id, problems)
        if rows is None:
            without_file.add(reading_id)
            continue
        rows_in += len(rows)
        for number, (line, row) in enumerate(rows):
            try:
                certainty, corners, labels = _ellipse(row)
            except _Unusable as error:
                problems.add(error.args[0], f"{path} line {line}: {error.args[1]}")
                dropped[error.args[0]] += 1
                continue
            kept += bool(labels)
            dropped["without a label"] += not labels
            pairs += [(reading_id, number, label, certainty, *corners) for label in labels]
    flow.add("rows of the ellipse files", rows_in, kept, dropped)
    columns = ["reading_id", "ellipse", "label", "certainty", *CORNERS]
    numeric = dict.fromkeys(["certainty", *CORNERS], "float64")
    return pd.DataFrame(pairs, columns=columns).astype({"ellipse": "int64", **numeric}), without_file


def _index_folders(folders: Sequence[Path]) -> dict[str, Path]:
    return {
        child.name: child
        for folder in reversed(folders)
        for child in folder.iterdir()
        if _READING.fullmatch(child.name)
    }


def _ellipse_rows(path: Path, reading_id: str, problems: ProblemList) -> list[tuple[int, dict]] | None:
    if not path.is_file():
        problems.add("reading without its ellipse file",
                     f"no {path}; the metadata names reading {reading_id}, download its folder again")  # fmt: skip
        return None
    try:
        return _read_rows(path, (*CORNERS, "certainty"))
    except SourceDataError as error:
        problems.add(UNUSABLE_FILE, str(error))
        return None


def _ellipse(row: dict[str | None, Any]) -> tuple[float, list[float], list[str]]:
    """Certainty, corners and labels (after merging, each once)."""
    _require_length(row)
    values = {name: _number(row[name]) for name in (*CORNERS, "certainty")}
    absent = next((name for name, value in values.items() if value is None), None)
    if absent:
        raise _Unusable("unusable ellipse", f"{absent} {row[absent]!r}; expected a number")
    if values["certainty"] not in range(1, 6):
        raise _Unusable("unusable ellipse", f"certainty {row['certainty']!r}; expected 1, 2, 3, 4 or 5")
    labels: dict[str, None] = {}
    for name, text in row.items():
        if name in values:
            continue
        carried = _TRUE.get(text.strip().lower())
        if carried is None and MERGED_LABELS.get(name, name) in KNOWN_LABELS:
            raise _Unusable("unusable ellipse", f"{name} {text!r}; expected True or False")
        if carried:
            labels[MERGED_LABELS.get(name, name)] = None
    return values["certainty"], [values[c] for c in CORNERS], list(labels)


def _read_rows(path: Path, needed: Sequence[str]) -> list[tuple[int, dict]]:
    """(line, row) of a small CSV; :class:`SourceDataError` where it cannot be read or a needed column is absent."""
    rows = read_csv(path, SourceDataError)
    _, header = next(rows, (1, []))
    check_columns(path, header, needed)
    return [(line, _by_name(header, row)) for line, row in rows]


def _by_name(header: list[str], row: list[str]) -> dict[str | None, Any]:
    """Map columns to values; further values are under None, absent ones are None (as ``csv.DictReader`` does)."""
    named: dict[str | None, Any] = dict(zip_longest(header, row[: len(header)]))
    return {**named, None: row[len(header) :]} if len(row) > len(header) else named


def _require_length(row: dict[str | None, Any]) -> None:
    """Raise where :func:`_by_name` found too many values or too few."""
    if None in row or None in row.values():
        header = len(row) - (None in row)
        cells = header + len(row[None]) if None in row else header - sum(v is None for v in row.values())
        raise _Unusable(OTHER_LENGTH, f"{cells} cells, the header has {header}; a row is cut off, or a comma has no "
                                      "quotes")  # fmt: skip


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None
