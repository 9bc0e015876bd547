"""Readers' ellipses → boxes and masks: vocabularies of the three phases merged, one box per (ellipse, label)."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdf_detectron.data.mimic.problems import Problems
from mdf_detectron.data.mimic.tables import FILE, LINE
from mdf_detectron.data.prepared_folder import Flow
from mdf_detectron.errors import SourceDataError

ELLIPSE_FILE = "anomaly_location_ellipses.csv"

MERGED_LABELS = {
    "Pleural thickening": "Pleural abnormality",
    "Pleural effusion": "Pleural abnormality",
    "Mass": "Lung nodule or mass",
    "Nodule": "Lung nodule or mass",
    "Emphysema": "High lung volume / emphysema",
}
"""Label of phase 1 → label of phases 2 and 3; nothing else merges."""

KNOWN_LABELS = (
    "Abnormal mediastinal contour", "Acute fracture", "Airway wall thickening", "Atelectasis", "Consolidation",
    "Enlarged cardiac silhouette", "Enlarged hilum", "Fibrosis", "Fracture", "Groundglass opacity", "Hiatal hernia",
    "High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass", "Pleural abnormality",
    "Pneumothorax", "Pulmonary edema", "Support devices", "Wide mediastinum",
)  # fmt: skip
"""Labels after merging that an ellipse may carry (texts and image quality aside)."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")
MASK_SHAPES = ("ellipse", "box")
OFF_IMAGE, NO_AREA = "outside the image", "without area"
POLYGON_POINTS = 48
_READING = re.compile(r"P([123])\d{2}R\d{6}")
_METADATA_COLUMNS = ("id", "eye_tracking_data_discarded", "dicom_id", "subject_id", "image_size_x", "image_size_y")
_TRUE = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": False}


def read_readings(paths: Sequence[Path], problems: Problems) -> pd.DataFrame:
    """All readings of the metadata files, in the files' order.

    Returns:
        reading_id (str, unique), phase (1–3), dicom_id (str), subject_id, width, height (int, pixels of the
        full-resolution film), discarded (bool) and certainty of every label after merging (float, columns named
        ``certainty: <label>``; NaN where the phase does not have the label).

    Raises:
        SourceDataError: a file without the needed columns, or a broken row unless problems are skipped.
    """
    rows, seen = [], set()
    for number, path in enumerate(paths):
        for line, row in _csv_rows(path, _METADATA_COLUMNS):
            where = f"{path} line {line}"
            if row["id"] in seen:
                problems.add("duplicated reading", f"{where}: id {row['id']!r} stands there a second time")
                continue
            reading = _reading(row, where, problems)
            if reading:
                seen.add(row["id"])
                rows.append(reading | {LINE: line, FILE: number})
    if not rows:
        raise SourceDataError(f"no reading in {', '.join(map(str, paths))}; download the tables again")
    return pd.DataFrame(rows).drop(columns=[LINE, FILE])


def _reading(row: dict[str, str], where: str, problems: Problems) -> dict[str, Any] | None:
    match = _READING.fullmatch(row["id"])
    numbers = {name: _number(row[name]) for name in ("subject_id", "image_size_x", "image_size_y")}
    if not match:
        problems.add("unusable reading id", f"{where}: id {row['id']!r}; expected P<phase><trial>R<six digits>")
        return None
    for name, value in numbers.items():
        if value is None or value != int(value) or value <= 0:
            problems.add(f"unusable {name}", f"{where}: {name} {row[name]!r}; expected a positive whole number")
            return None
    discarded = _TRUE.get(row["eye_tracking_data_discarded"].strip().lower())
    if discarded is None:
        problems.add("unusable eye_tracking_data_discarded",
                     f"{where}: eye_tracking_data_discarded {row['eye_tracking_data_discarded']!r}; "
                     "expected True or False")  # fmt: skip
        return None
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


def read_ellipses(readings: pd.DataFrame, folders: Sequence[Path], problems: Problems) -> pd.DataFrame:
    """Every (ellipse, label) pair of the readings.

    Args:
        readings: of :func:`read_readings`.
        folders: where the readings' folders may lie; the first that has one is taken.

    Returns:
        reading_id, ellipse (number in its file), label (after merging), certainty (1–5), xmin, ymin, xmax, ymax
        (float pixels, as written).  An ellipse that only carries merged twins gives one pair.
    """
    by_name = _index_folders(folders) if len(folders) > 1 else None
    pairs: list[tuple] = []
    for reading_id in readings["reading_id"]:
        folder = by_name.get(reading_id, folders[0] / reading_id) if by_name is not None else folders[0] / reading_id
        path = folder / ELLIPSE_FILE
        if not path.is_file():
            problems.add("reading without its ellipse file",
                         f"no {path}; the metadata names reading {reading_id}, download its folder again")  # fmt: skip
            continue
        for number, (line, row) in enumerate(_csv_rows(path, (*CORNERS, "certainty"))):
            pairs += _labels_of(row, f"{path} line {line}", reading_id, number, problems)
    columns = ["reading_id", "ellipse", "label", "certainty", *CORNERS]
    numeric = dict.fromkeys(["certainty", *CORNERS], "float64")
    return pd.DataFrame(pairs, columns=columns).astype({"ellipse": "int64", **numeric})


def _index_folders(folders: Sequence[Path]) -> dict[str, Path]:
    return {child.name: child for folder in folders for child in folder.iterdir() if _READING.fullmatch(child.name)}


def _labels_of(row: dict[str, str], where: str, reading_id: str, number: int, problems: Problems) -> list[tuple]:
    values = {name: _number(row[name]) for name in (*CORNERS, "certainty")}
    absent = next((name for name, value in values.items() if value is None), None)
    if absent:
        problems.add("unusable ellipse", f"{where}: {absent} {row[absent]!r}; expected a number")
        return []
    labels: dict[str, None] = {}
    for name, text in row.items():
        if name in values or name is None:
            continue
        carried = _TRUE.get((text or "").strip().lower())
        if carried is None and MERGED_LABELS.get(name, name) in KNOWN_LABELS:
            problems.add("unusable ellipse", f"{where}: {name} {text!r}; expected True or False")
            return []
        if carried:
            labels[MERGED_LABELS.get(name, name)] = None
    return [(reading_id, number, label, values["certainty"], *(values[c] for c in CORNERS)) for label in labels]


def choose_boxes(
    ellipses: pd.DataFrame, readings: pd.DataFrame, classes: Sequence[str], min_certainty: int, flow: Flow
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The (ellipse, label) pairs that become boxes, clamped to their film.

    Args:
        ellipses, readings: of :func:`read_ellipses` and :func:`read_readings`; only pairs of ``readings`` count.
        classes: labels to keep; the others are counted as dropped.
        min_certainty: least certainty, 1–5.
        flow: gets the stage "boxes (ellipse and label)".

    Returns:
        The chosen rows with ``x0, y0, x1, y1`` (clamped pixels) besides what came in, and counts of what was
        changed without being dropped (clamped boxes).
    """
    size = readings.set_index("reading_id")[["width", "height"]]
    pairs = ellipses[ellipses["reading_id"].isin(size.index)]
    pairs = pairs.assign(**{side: pairs["reading_id"].map(size[side]) for side in size})
    x0, x1 = pairs["xmin"].clip(0, pairs["width"]), pairs["xmax"].clip(0, pairs["width"])
    y0, y1 = pairs["ymin"].clip(0, pairs["height"]), pairs["ymax"].clip(0, pairs["height"])
    no_area = (pairs["xmax"] - pairs["xmin"] < 1) | (pairs["ymax"] - pairs["ymin"] < 1)
    reason = np.select(
        [~pairs["label"].isin(classes), pairs["certainty"] < min_certainty, no_area, (x1 - x0 < 1) | (y1 - y0 < 1)],
        ["label not among the classes", f"certainty below {min_certainty}", NO_AREA, OFF_IMAGE],
        "",
    )
    kept = reason == ""
    chosen = pairs.assign(x0=x0, y0=y0, x1=x1, y1=y1)[kept]
    flow.add("boxes (ellipse and label)", len(pairs), len(chosen), Counter(reason[~kept].tolist()))
    given = chosen[list(CORNERS)].to_numpy()
    clamped = int((given != chosen[["x0", "y0", "x1", "y1"]].to_numpy()).any(axis=1).sum())
    return chosen, {"boxes clamped to their film": clamped}


def to_annotation(
    box, classes: Sequence[str], mask_shape: str = "ellipse", scale: tuple[float, float] = (1, 1)
) -> dict[str, Any]:
    """A COCO annotation of one row of :func:`choose_boxes`.

    Args:
        box: row with ``label``, ``certainty``, the corners as written and clamped.
        mask_shape: "ellipse" (inscribed in the corners as written, cut at the film's edge) or "box".
        scale: of x and y, from the film's pixels to the prepared image's.
    """
    x0, y0, x1, y1 = box.x0 * scale[0], box.y0 * scale[1], box.x1 * scale[0], box.y1 * scale[1]
    if mask_shape == "ellipse":
        angles = np.linspace(0, 2 * np.pi, POLYGON_POINTS, endpoint=False)
        xs = (box.xmin + box.xmax) / 2 + (box.xmax - box.xmin) / 2 * np.cos(angles)
        ys = (box.ymin + box.ymax) / 2 + (box.ymax - box.ymin) / 2 * np.sin(angles)
        points = np.stack([np.clip(xs * scale[0], x0, x1), np.clip(ys * scale[1], y0, y1)], axis=1)
    elif mask_shape == "box":
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    else:
        raise ValueError(f"mask shape '{mask_shape}' is not one of {MASK_SHAPES}")
    return {
        "bbox": [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)],
        "category_id": list(classes).index(box.label) + 1,
        "segmentation": [points.round(2).ravel().tolist()],
        "certainty": int(box.certainty),
    }


def _csv_rows(path: Path, needed: Sequence[str]):
    """(line, row) of a small CSV; :class:`SourceDataError` where a needed column is absent or a row is cut off."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            absent = [c for c in needed if c not in header]
            if absent:
                hint = " (the separator must be a comma)" if len(header) == 1 else ""
                raise SourceDataError(f"{path}: no column {', '.join(absent)}; it has {', '.join(header)}{hint}")
            for row in reader:
                if None in row.values() or None in row:
                    raise SourceDataError(f"{path} line {reader.line_num}: {len(header)} columns expected; the row is "
                                          "cut off or too long, download the file again")  # fmt: skip
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceDataError(f"{path}: cannot be read as a CSV table ({error}); download it again") from None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None
