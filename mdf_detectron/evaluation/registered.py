"""The annotation file of a dataset registered with Detectron2."""

from __future__ import annotations

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from mdf_detectron.evaluation.ground_truth import AnnotationError


def annotation_file(dataset_name: str) -> Path:
    """COCO JSON file of a registered dataset.

    Raises:
        AnnotationError: a dataset that is not registered, or not from a COCO JSON file.
        DatasetNotPreparedError: a known dataset that is not there yet; the message says how to prepare it.
    """
    known = dataset_name in DatasetCatalog.list()
    if not known and dataset_name not in MetadataCatalog.list():
        raise AnnotationError(f"dataset '{dataset_name}' is not registered; registered are {_some_names()}")
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file and known and not Path(json_file).is_file():
        DatasetCatalog.get(dataset_name)
    if not json_file:
        raise AnnotationError(
            f"dataset '{dataset_name}' has no json_file in its metadata; register it from a COCO JSON file"
        )
    return Path(json_file)


def _some_names() -> str:
    """The names that a user of this project means, before Detectron2's own."""
    names = [n for n in DatasetCatalog.list() if MetadataCatalog.get(n).get("evaluator_type") == "cxr"]
    return ", ".join(names or DatasetCatalog.list()[:5])
