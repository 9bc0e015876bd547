"""Check the contents of a checkpoint of any origin, so that what reads them need not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.errors import DatasetError, shorten


def contents_problem(contents: Mapping[str, Any]) -> str:
    """Say what is wrong with the contents of a checkpoint; an empty text if nothing is."""
    for key, (expected, sound) in _ENTRIES.items():
        if not sound(contents.get(key)):
            return f"{key} is {shorten(contents.get(key))}; expected {expected}"
    try:
        schema = ClinicalSchema.from_dict(contents["schema"])
    except DatasetError as error:
        return str(error)
    names, columns = schema.names, contents["columns"]
    if not set(columns) <= set(names) or len(set(columns)) != len(columns):
        return f"columns are {shorten(columns)}, the schema has {shorten(names)}"
    if len(contents["category_ids"]) != len(contents["class_names"]):
        return f"{len(contents['category_ids'])} category_ids of {len(contents['class_names'])} class_names"
    statistics = contents["training"]["columns"]
    for column in schema.columns:
        if column.name in columns:
            one = statistics.get(column.name)
            sound = _quantiles(one) if column.kind == "numeric" else _frequencies(one, column.vocabulary)
            if not sound:
                return f"the training statistics of column '{column.name}' are {shorten(one)}"
    thresholds = (contents["operating_point"] or {}).get("classes", {})
    if contents["operating_point"] and not set(contents["class_names"]) <= set(thresholds):
        return f"the operating point has no threshold for each of {shorten(contents['class_names'])}"
    return ""


def _is_number(value: Any, low: float = -math.inf) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= 1e300


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)


def _dict_of(**entries: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(sound(value.get(key)) for key, sound in entries.items())


def _point(value: Any) -> bool:
    if value is None:
        return True
    classes = value.get("classes") if isinstance(value, dict) and isinstance(value.get("source"), str) else None
    return isinstance(classes, dict) and all(
        isinstance(one, dict) and "threshold" in one and (one["threshold"] is None or _is_number(one["threshold"]))
        for one in classes.values()
    )


_calibration = _dict_of(temperature=lambda value: _is_number(value, 1e-300))
_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "class_names": ("a list of distinct names", lambda v: _texts(v) and 0 < len(v) == len(set(v))),
    "category_ids": ("a list of ids", lambda v: isinstance(v, list) and all(type(one) in (int, str) for one in v)),
    "columns": ("a list of names", _texts),
    "schema": ("a clinical schema", lambda v: isinstance(v, dict)),
    "training": ("images and statistics of columns", _dict_of(images=_is_count, columns=lambda v: isinstance(v, dict))),
    "missing_records": ("two rates of dropout", _dict_of(dropout_record=_is_number, dropout_value=_is_number)),
    "operating_point": ("nothing, or a source and a threshold for each class", _point),
    "calibration": ("nothing, or a positive temperature", lambda v: v is None or _calibration(v)),
    "results": ("nothing, or a dict", lambda v: v is None or isinstance(v, dict)),
}
"""Entry → what it must be, and whether a value is."""


def _quantiles(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_count(value.get("count")) or not isinstance(value.get("quantiles"), list):
        return False
    return all(map(_is_number, value["quantiles"])) and value["quantiles"] == sorted(value["quantiles"])


def _frequencies(value: Any, vocabulary: tuple[str, ...]) -> bool:
    if (
        not isinstance(value, dict)
        or not _is_count(value.get("count"))
        or not isinstance(value.get("frequencies"), dict)
    ):
        return False
    return all(_is_count(value["frequencies"].get(word)) for word in vocabulary)
