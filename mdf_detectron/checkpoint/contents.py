"""Describe what a checkpoint holds next to its weights, so that it can be used without its training data.

The entry ``contents`` of a ``.pth`` file is a dict of plain values, the fields of :class:`Contents`. It holds no
patient's record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from pydantic import Field, model_validator

import mdf_detectron
from mdf_detectron.config import columns_read
from mdf_detectron.data.catalog import load_schema, read_report
from mdf_detectron.data.intensity import HIGHEST, LOWEST
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.errors import CheckpointError, DatasetError, shorten
from mdf_detectron.validation import Strict, validated

FORMAT = 1

PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Probabilities of the quantiles that are stored for a numeric column."""

_Number = Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Name = Annotated[str, Field(pattern=r"\S")]


class _Statistics(Strict):
    """A column's number of values in the training records, and their quantiles (numeric) or frequencies."""

    count: _Count
    quantiles: list[_Number] | None = None
    frequencies: dict[str, _Count] | None = None


class _Training(Strict):
    datasets: list[str]
    synthetic: bool
    images: _Count
    patients: _Count
    columns: dict[str, _Statistics]


class _Image(Strict):
    """How an image is read, resized and normalized."""

    format: str
    size: _Count
    resize: str
    mean: list[_Number]
    std: list[_Number]
    black_and_white_percentiles: list[_Number]


class _MissingRecords(Strict):
    """How the model was trained to cope with missing values."""

    missing: str
    dropout_record: _Number
    dropout_value: _Number


class _ClassPoint(Strict):
    """A score threshold (None reports no detection) and its results on the data that it was chosen on."""

    threshold: _Number | None
    false_positives: _Number | None
    sensitivity: _Number | None
    boxes: _Count


class _OperatingPoint(Strict):
    source: str
    criterion: str
    classes: dict[str, _ClassPoint]


class _Calibration(Strict):
    """A temperature for the scores, and the reliability diagrams without and with it."""

    source: str
    criterion: str
    temperature: Annotated[_Number, Field(gt=0)]
    detections: _Count
    before: dict[str, Any]
    after: dict[str, Any]


class Contents(Strict):
    """Contents of a checkpoint; the last three entries are None until ``mdf publish`` adds them.

    Attributes:
        software: library → version that wrote it.
        class_names, category_ids: the model's classes in order, and their ids in COCO files.
        clinical_schema: the complete clinical schema of the training data (units, ranges, vocabularies).
        columns: the columns that the model reads, in input order; empty for an image-only model.
    """

    format: Literal[1]
    software: dict[str, str]
    class_names: Annotated[list[_Name], Field(min_length=1)]
    category_ids: list[int | str]
    clinical_schema: Any = Field(alias="schema")
    columns: list[_Name]
    training: _Training
    image: _Image
    missing_records: _MissingRecords
    operating_point: _OperatingPoint | None
    calibration: _Calibration | None
    results: dict[str, Any] | None

    @model_validator(mode="after")
    def _agree(self) -> Contents:
        try:
            schema = ClinicalSchema.from_dict(self.clinical_schema, "schema")
        except DatasetError as error:
            raise ValueError(str(error)) from None
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names is {shorten(self.class_names)}; expected distinct names")
        if len(self.category_ids) != len(self.class_names):
            raise ValueError(f"{len(self.category_ids)} category_ids of {len(self.class_names)} class_names")
        if not set(self.columns) <= set(schema.names) or len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns are {shorten(self.columns)}, the schema has {shorten(schema.names)}")
        for column in schema.columns:
            one = self.training.columns.get(column.name)
            if column.name in self.columns and not (one and _fits(one, column.vocabulary)):
                raise ValueError(f"the training statistics of column '{column.name}' are {shorten(one)}")
        if self.operating_point and not set(self.class_names) <= set(self.operating_point.classes):
            raise ValueError(f"the operating point has no threshold for each of {shorten(self.class_names)}")
        return self


def _fits(one: _Statistics, vocabulary: tuple[str, ...]) -> bool:
    """Tell whether statistics fit a column with this vocabulary; numeric columns have an empty one."""
    if vocabulary:
        return one.frequencies is not None and set(vocabulary) <= set(one.frequencies)
    quantiles = one.quantiles
    return quantiles is not None and len(quantiles) in (0, len(PROBABILITIES)) and quantiles == sorted(quantiles)


def checked_contents(contents: Mapping[str, Any], filename: Any) -> dict[str, Any]:
    """Validate and return a checkpoint's contents; ``CheckpointError`` if damaged, edited or of a later version."""
    version = contents.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{filename} has contents of format {shorten(version)}, this version reads {FORMAT}; update mdf_detectron"
        )
    validated(Contents, contents, f"{filename} was edited, publish it again; its contents", CheckpointError)
    return dict(contents)


def training_contents(cfg: CfgNode) -> dict[str, Any]:
    """Collect the contents of a checkpoint from its config and its registered train data sets."""
    names = list(cfg.DATASETS.TRAIN)
    records = [record for name in names for record in DatasetCatalog.get(name)]
    metadata = MetadataCatalog.get(names[0])
    schema = load_schema(metadata.clinical_schema_file)
    clinical = cfg.MODEL.CLINICAL
    to_contiguous = metadata.thing_dataset_id_to_contiguous_id
    return {
        "format": FORMAT,
        "software": {
            "mdf_detectron": mdf_detectron.__version__,
            "detectron2": detectron2.__version__,
            "torch": str(torch.__version__),
        },
        "class_names": list(metadata.thing_classes),
        "category_ids": sorted(to_contiguous, key=to_contiguous.get),
        "schema": schema.to_dict(),
        "columns": columns_read(cfg),
        "training": {
            "datasets": names,
            "synthetic": any(read_report(Path(MetadataCatalog.get(n).dataset_root)).get("synthetic") for n in names),
            "images": len(records),
            "patients": len({record["patient_id"] for record in records}),
            "columns": column_statistics(schema, [record.get("clinical") for record in records]),
        },
        "image": {
            "format": cfg.INPUT.FORMAT,
            "size": cfg.INPUT.IMAGE_SIZE,
            "resize": "square, aspect ratio ignored, bilinear",
            "mean": list(cfg.MODEL.PIXEL_MEAN),
            "std": list(cfg.MODEL.PIXEL_STD),
            "black_and_white_percentiles": [LOWEST, HIGHEST],
        },
        "missing_records": {
            "missing": clinical.MISSING,
            "dropout_record": clinical.DROPOUT_RECORD,
            "dropout_value": clinical.DROPOUT_VALUE,
        },
        "operating_point": None,
        "calibration": None,
        "results": None,
    }


def column_statistics(schema: ClinicalSchema, records: list[Mapping[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """Compute each column's number of values over records, and their quantiles (numeric) or frequencies."""
    parsed = [schema.encode(record, where="training record") for record in records]
    out: dict[str, dict[str, Any]] = {}
    for i, column in enumerate(schema.numeric):
        values = np.array([numeric[i] for numeric, _ in parsed], dtype=np.float64)
        values = values[~np.isnan(values)]
        quantiles = [float(q) for q in np.quantile(values, PROBABILITIES)] if len(values) else []
        out[column.name] = {"count": len(values), "quantiles": quantiles}
    for i, column in enumerate(schema.categorical):
        counts = Counter(codes[i] for _, codes in parsed)
        frequencies = {value: counts[code] for code, value in enumerate(column.vocabulary)}
        out[column.name] = {"count": sum(frequencies.values()), "frequencies": frequencies}
    return out


def check_dataset(contents: Mapping[str, Any], dataset_name: str, filename: Any) -> None:
    """Raise ``CheckpointError`` if a data set has other classes or another order, or fails :func:`check_schema`."""
    if dataset_name not in DatasetCatalog.list():
        return  # the caller reports it
    try:
        DatasetCatalog.get(dataset_name)  # loading sets its classes
    except DatasetError:
        return  # not prepared here: the model is usable, only an evaluation on it fails
    metadata = MetadataCatalog.get(dataset_name)
    classes = list(metadata.get("thing_classes", []))
    if classes != contents["class_names"]:
        raise CheckpointError(
            f"{filename} predicts the classes {contents['class_names']}, data set '{dataset_name}' has {classes}; "
            "the classes and their order must be equal"
        )
    if contents["columns"] and metadata.get("clinical_schema_file"):
        check_schema(contents, load_schema(metadata.clinical_schema_file), dataset_name, filename)


def check_schema(contents: Mapping[str, Any], schema: ClinicalSchema, dataset_name: str, filename: Any) -> None:
    """Raise ``CheckpointError`` if a column that the model reads is absent or its kind, unit or values differ."""
    trained = {column.name: column for column in ClinicalSchema.from_dict(contents["schema"]).columns}
    present = {column.name: column for column in schema.columns}
    for name in contents["columns"]:
        if name not in present:
            raise CheckpointError(
                f"{filename} reads the column '{name}', which data set '{dataset_name}' does not have"
            )
        ours, theirs = trained[name], present[name]
        for key in ("kind", "unit", "minimum", "maximum", "vocabulary"):
            if getattr(ours, key) != getattr(theirs, key):
                raise CheckpointError(
                    f"{filename} was trained with {key} {getattr(ours, key)!r} of column '{name}', data set "
                    f"'{dataset_name}' has {getattr(theirs, key)!r}; convert the values or train again"
                )
