"""Read the metadata and the ellipses of each reading; make boxes and masks of the ellipses."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.table import Row, Table, read_table
from mdf_detectron.data.sources.mimic.schema import KNOWN_LABELS, MERGED_LABELS
from mdf_detectron.data.sources.mimic.tables import UNUSABLE_FILE
from mdf_detectron.errors import SourceDataError

ELLIPSE_FILE = "anomaly_location_ellipses.csv"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
MASK_SHAPES = ("ellipse", "box")
OFF_IMAGE, NO_AREA, LATER_LABEL = "outside the image", "without area", "not the first label of its ellipse"
POLYGON_POINTS = 48

_READING = re.compile(r"P([123])\d{2}R\d{6}")
_METADATA_COLUMNS = ("id", "eye_tracking_data_discarded", "dicom_id", "subject_id", "image_size_x", "image_size_y")
_TRUE = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": False}


class _Unusable(Exception):
    """A broken row: (kind, what is wrong)."""


def read_readings(paths: Sequence[Path], problems: ProblemList, flow: Flow) -> pd.DataFrame:
    """Read all readings from the metadata files, in file order.

    Returns:
        reading_id (str, unique), phase (1–3), dicom_id (str), subject_id, width, height (int, pixels of the
        full-resolution image), discarded (bool) and the certainty of each merged label (float, columns
        ``certainty: <label>``; NaN if the phase does not have the label).
    """
    readings: dict[str, dict[str, Any]] = {}
    rows_in, dropped = 0, Counter()
    for path in paths:
        table = _read(path, _METADATA_COLUMNS, problems, alone=len(paths) == 1)
        rows_in += len(table.rows) + sum(table.dropped.values())
        dropped.update(table.dropped)
        for row, line in zip(table.rows, table.lines, strict=True):
            try:
                reading = _reading(row)
                if reading["reading_id"] in readings:
                    raise _Unusable("duplicated reading", f"id {row['id']!r} occurs a second time")
                readings[reading["reading_id"]] = reading
            except _Unusable as error:
                problems.add(error.args[0], f"{path} line {line}: {error.args[1]}")
                dropped[error.args[0]] += 1
    if not readings:
        problems.stop_if_any()
        raise SourceDataError(f"no reading in {', '.join(map(str, paths[:3]))}; download the tables again")
    flow.add("rows of the readers' metadata", rows_in, len(readings), dropped)
    return pd.DataFrame(readings.values())


def _read(path: Path, needed: Sequence[str], problems: ProblemList, alone: bool = False) -> Table:
    """Read a table; an unusable one is a problem and has no rows, or raises if it is ``alone``."""
    try:
        return read_table(path, problems, needed, may_be_empty=True)
    except SourceDataError as error:
        if alone:
            raise
        problems.add(UNUSABLE_FILE, str(error))
        return Table(path, [], [], [])


def _reading(row: Row) -> dict[str, Any]:
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
    """Read every (ellipse, label) pair of the readings; the first of ``folders`` that has a reading is used.

    Returns:
        Pairs: reading_id, ellipse (number in its file), label (after merging), certainty (1–5), xmin, ymin, xmax, ymax
        (float pixels, as written); labels that merge into one give one pair. And the ids of readings without a usable
        file: their findings are unknown, which differs from no findings.
    """
    children = (child for folder in reversed(folders) for child in folder.iterdir()) if len(folders) > 1 else ()
    by_name = {child.name: child for child in children if _READING.fullmatch(child.name)}
    pairs: list[tuple] = []
    rows_in, kept, dropped, without_file = 0, 0, Counter(), set()
    for reading_id in readings["reading_id"]:
        path = by_name.get(reading_id, folders[0] / reading_id) / ELLIPSE_FILE
        if not path.is_file():
            problems.add("reading without its ellipse file",
                         f"no {path}; the metadata names reading {reading_id}, download its folder again")  # fmt: skip
            without_file.add(reading_id)
            continue
        table = _read(path, (*CORNERS, "certainty"), problems)
        if not table.columns:
            without_file.add(reading_id)
            continue
        rows_in += len(table.rows) + sum(table.dropped.values())
        dropped.update(table.dropped)
        for number, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
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


def _ellipse(row: Row) -> tuple[float, list[float], list[str]]:
    """Return certainty, corners and distinct labels after merging."""
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


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def choose_boxes(
    ellipses: pd.DataFrame,
    readings: pd.DataFrame,
    classes: Sequence[str],
    min_certainty: int,
    flow: Flow,
    first_label: bool = False,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Choose the (ellipse, label) pairs of these readings that become boxes, and clamp them to the image.

    Other classes and certainties below ``min_certainty`` (1–5) are dropped and counted, with ``first_label`` all but
    an ellipse's first label in the order of ``classes`` too.

    Returns:
        The chosen rows with ``x0, y0, x1, y1`` (clamped pixels), and counts of clamped boxes.
    """
    size = readings.set_index("reading_id")[["width", "height"]]
    pairs = ellipses[ellipses["reading_id"].isin(size.index)]
    pairs = pairs.assign(**{side: pairs["reading_id"].map(size[side]) for side in size})
    x0, x1 = pairs["xmin"].clip(0, pairs["width"]), pairs["xmax"].clip(0, pairs["width"])
    y0, y1 = pairs["ymin"].clip(0, pairs["height"]), pairs["ymax"].clip(0, pairs["height"])
    no_area = (pairs["xmax"] - pairs["xmin"] < 1) | (pairs["ymax"] - pairs["ymin"] < 1)
    rank = pairs["label"].map({name: place for place, name in enumerate(classes)})
    later = first_label & (rank > rank.groupby([pairs["reading_id"], pairs["ellipse"]]).transform("min"))
    outside = (x1 - x0 < 1) | (y1 - y0 < 1)
    reason = np.select(
        [rank.isna(), later, pairs["certainty"] < min_certainty, no_area, outside],
        ["label not among the classes", LATER_LABEL, f"certainty below {min_certainty}", NO_AREA, OFF_IMAGE],
        "",
    )
    kept = reason == ""
    chosen = pairs.assign(x0=x0, y0=y0, x1=x1, y1=y1)[kept]
    flow.add("boxes (ellipse and label)", len(pairs), len(chosen), Counter(reason[~kept].tolist()))
    given = chosen[list(CORNERS)].to_numpy()
    clamped = int((given != chosen[["x0", "y0", "x1", "y1"]].to_numpy()).any(axis=1).sum())
    return chosen, {"boxes clamped to their image": clamped}


def to_box(row: Any, mask_shape: str = "ellipse", scale: tuple[float, float] = (1, 1)) -> dict[str, Any]:
    """Return the box of a row of :func:`choose_boxes`.

    Args:
        mask_shape: "ellipse" (inscribed in the corners as written, cut at the image's edge) or "box".
        scale: (x, y) factors from the reading's pixels to the box's.
    """
    x0, y0, x1, y1 = row.x0, row.y0, row.x1, row.y1
    if mask_shape == "ellipse":
        angles = np.linspace(0, 2 * np.pi, POLYGON_POINTS, endpoint=False)
        xs = (row.xmin + row.xmax) / 2 + (row.xmax - row.xmin) / 2 * np.cos(angles)
        ys = (row.ymin + row.ymax) / 2 + (row.ymax - row.ymin) / 2 * np.sin(angles)
        points = np.stack([np.clip(xs, x0, x1), np.clip(ys, y0, y1)], axis=1)
    else:
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return {
        "bbox": [x0 * scale[0], y0 * scale[1], (x1 - x0) * scale[0], (y1 - y0) * scale[1]],
        "class": row.label,
        "segmentation": [(points * scale).ravel().tolist()],
        "certainty": int(row.certainty),
    }
