"""What a checkpoint holds beside its weights, so that it can be used without the data set that it was trained on.

The entry :data:`CONTENTS_KEY` of a ``.pth`` file is a dict of plain values::

    format, software            version of this layout; versions of the libraries that wrote it
    class_names, category_ids   the model's classes in order, and their ids in COCO files
    schema                      the whole clinical schema of the training data (units, ranges, vocabularies)
    columns                     the columns that the model reads, in input order (empty: an image-only model)
    training                    data sets, number of images and patients, and for each column its number of values,
                                quantiles (numeric) or frequencies (categorical); no record of a single patient
    image                       how an image is read, resized and normalized
    missing_records             how the model was trained to cope with missing values
    operating_point, calibration, results    added by ``mdf publish``; None before

and the entry :data:`DIGEST_KEY` is the SHA-256 of weights, config and contents, :data:`TRAINING_DIGEST_KEY` that of the
states of optimizer, schedule and hooks, where the file has them. Both are verified on load.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

import mdf_detectron
from mdf_detectron.checkpoint.contents_check import contents_problem
from mdf_detectron.config import fuses_1d, fuses_3d
from mdf_detectron.data.intensity import HIGHEST, LOWEST
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.errors import CheckpointError, DatasetError, shorten

CONTENTS_KEY = "contents"
DIGEST_KEY = "sha256"
TRAINING_DIGEST_KEY = "training_sha256"
FORMAT = 1

PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Of the training quantiles of a numeric column."""


def training_contents(cfg: CfgNode) -> dict[str, Any]:
    """Collect the contents of a checkpoint from its config and its registered train data sets."""
    names = list(cfg.DATASETS.TRAIN)
    records = [record for name in names for record in DatasetCatalog.get(name)]
    metadata = MetadataCatalog.get(names[0])
    schema = ClinicalSchema.load(metadata.clinical_schema_file)
    clinical = cfg.MODEL.CLINICAL
    reads = fuses_3d(cfg) or fuses_1d(cfg)
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
        "columns": [*clinical.NUMERIC, *clinical.CATEGORICAL] if reads else [],
        "training": {
            "datasets": names,
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
    """Summarize each column over records: its number of values, and quantiles (numeric) or frequencies."""
    parsed = [schema.parse_record(record, where="training record") for record in records]
    out: dict[str, dict[str, Any]] = {}
    for i, column in enumerate(schema.numeric):
        values = np.array([row.numeric[i] for row in parsed], dtype=np.float64)
        values = values[~np.isnan(values)]
        quantiles = [float(q) for q in np.quantile(values, PROBABILITIES)] if len(values) else []
        out[column.name] = {"count": len(values), "quantiles": quantiles}
    for i, column in enumerate(schema.categorical):
        counts = Counter(row.categorical[i] for row in parsed)
        frequencies = {value: counts[code] for code, value in enumerate(column.vocabulary)}
        out[column.name] = {"count": sum(frequencies.values()), "frequencies": frequencies}
    return out


def digest(data: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a checkpoint's weights, config and contents; other entries do not count."""
    sha = hashlib.sha256()
    for name, tensor in sorted(data["model"].items()):
        _add_tensor(sha, name, tensor)
    rest = {key: data.get(key) for key in ("mdf_config", CONTENTS_KEY)}
    sha.update(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode())
    return sha.hexdigest()


def training_digest(data: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a checkpoint's states of optimizer, schedule and hooks."""
    sha = hashlib.sha256()
    _add(sha, "", {key: data.get(key) for key in ("trainer", "iteration")})
    return sha.hexdigest()


def _add(sha: hashlib._Hash, name: str, value: Any) -> None:
    """Add nested dicts, lists, tensors and plain values, each with its place."""
    if isinstance(value, torch.Tensor):
        _add_tensor(sha, name, value)
    elif isinstance(value, Mapping):
        for key, entry in sorted(value.items(), key=lambda item: str(item[0])):
            _add(sha, f"{name}/{key}", entry)
    elif isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            _add(sha, f"{name}/{number}", entry)
    else:
        sha.update(f"{name} {value!r}\n".encode())


def _add_tensor(sha: hashlib._Hash, name: str, tensor: torch.Tensor) -> None:
    if problem := _weight_problem(name, tensor):
        raise ValueError(f"the state {shorten(name)} {problem}")
    tensor = tensor.detach().cpu().contiguous()
    sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    sha.update(tensor.reshape(-1).view(torch.uint8).numpy())


def verify(data: Any, filename: Any) -> dict[str, Any]:
    """Return a loaded checkpoint after a check of its digest and of its numbers.

    Raises:
        CheckpointError: no dict, a digest that differs (a damaged or edited file), or a weight that is not finite.
    """
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{filename} holds a {type(data).__name__}, not a checkpoint; name a .pth of this project"
        )
    state = data.get("model")
    for name, value in (state if isinstance(state, dict) else {}).items():
        problem = _weight_problem(name, value)
        if problem:
            raise CheckpointError(f"{filename}: the weight {shorten(name)} {problem}; name a .pth of this project")
    damaged = DIGEST_KEY in data and (not isinstance(state, dict) or digest(data) != data[DIGEST_KEY])
    if damaged or (TRAINING_DIGEST_KEY in data and training_digest(data) != data[TRAINING_DIGEST_KEY]):
        raise CheckpointError(f"{filename} is damaged or was edited: its SHA-256 is not the stored one; copy it again")
    for name, value in (state if isinstance(state, dict) else {}).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{filename}: the weight {name} is not finite; the training diverged or it is damaged"
            )
    return data


def _weight_problem(name: Any, value: Any) -> str:
    """Say what is wrong with an entry of the weights that no digest may be computed of; an empty text if nothing is."""
    if not isinstance(name, str):
        return "has no text for a name"
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, no tensor"
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        return f"is a tensor of another kind ({value.layout}, {value.dtype}, {value.device})"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # it would need that memory when copied
        return f"of the shape {shorten(tuple(value.shape))} has more elements than the file holds"
    return ""


def contents_of(data: Mapping[str, Any], filename: Any) -> dict[str, Any]:
    """Return the contents of a loaded checkpoint.

    Raises:
        CheckpointError: a file without contents, or of a later format.
    """
    contents = data.get(CONTENTS_KEY)
    if contents is not None and not isinstance(contents, dict):
        raise CheckpointError(f"{filename}: its contents are {shorten(contents)}, no dict; name a .pth of this project")
    if contents is None:
        raise CheckpointError(
            f"{filename} does not say its classes, units and ranges (an older checkpoint); write a complete one with "
            "tools/publish_model.py where its data sets are registered"
        )
    if contents.get("format") != FORMAT:
        raise CheckpointError(
            f"{filename} has contents of format {shorten(contents.get('format'))}, this version reads {FORMAT}; "
            "update mdf_detectron"
        )
    problem = contents_problem(contents)
    if problem:
        raise CheckpointError(f"{filename}: contents: {problem}; the file is damaged or was edited, publish it again")
    return contents


def check_dataset(contents: Mapping[str, Any], dataset_name: str, filename: Any) -> None:
    """Refuse a data set whose classes or columns mean something else than the checkpoint's.

    Raises:
        CheckpointError: other classes or another order of them; a column that the model reads with another kind,
            unit, range or vocabulary.
    """
    if dataset_name not in DatasetCatalog.list():
        return  # the caller cannot evaluate on it, and says so
    try:
        DatasetCatalog.get(dataset_name)  # its classes are known once it is loaded
    except DatasetError:
        return  # not prepared here: a model can be used without it, and whoever evaluates on it is told
    metadata = MetadataCatalog.get(dataset_name)
    classes = list(metadata.get("thing_classes", []))
    if classes != contents["class_names"]:
        raise CheckpointError(
            f"{filename} predicts the classes {contents['class_names']}, data set '{dataset_name}' has {classes}; "
            "the classes and their order must be equal"
        )
    if contents["columns"] and metadata.get("clinical_schema_file"):
        check_schema(contents, ClinicalSchema.load(metadata.clinical_schema_file), dataset_name, filename)


def check_schema(contents: Mapping[str, Any], schema: ClinicalSchema, dataset_name: str, filename: Any) -> None:
    """Refuse a schema in which a column that the model reads is absent or means something else."""
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
