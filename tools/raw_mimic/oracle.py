"""Predict what the best detector could on a folder prepared from the synthetic raw tree.

The oracle knows the generating process and sees what a model sees: each image's findings with their look and, with the
record, the vitals as the prepared folder has them (cleaned, rounded, some missing).  What readers do is part of the
process: they swap the classes of a look-alike pair, which the scores take into account, and they miss findings and move
edges, which nothing can foresee and which therefore lowers the ceiling.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mdf_detectron.data.prepared import REPORT_FILE_NAME
from mdf_detectron.data.record_changes import permute_records
from mdf_detectron.data.synthetic.cohort import (
    CARDIAC_CLASS,
    VITAL_MEANS,
    VITAL_SDS,
    VITALS,
    CohortSettings,
    Radiograph,
)
from mdf_detectron.data.synthetic.oracle import class_weights, shares
from mdf_detectron.data.synthetic.scene import ellipse_box, heart_ellipse
from mdf_detectron.errors import SourceDataError
from mdf_detectron.fileio import read_json
from raw_mimic.history import SWAP, RawSettings, make_history
from raw_mimic.readers import choose_radiographs, make_scene


def read_settings(raw: str | Path) -> RawSettings:
    """Read what a raw tree was made with from its report.

    Raises:
        SourceDataError: no report, or one of another kind of data.
    """
    path = Path(raw) / REPORT_FILE_NAME
    arguments = dict(read_json(path, SourceDataError).get("arguments", {}))
    if not arguments.pop("raw", False):
        raise SourceDataError(f"{path} is not the report of a tree that tools/write_raw_mimic.py wrote")
    return RawSettings(CohortSettings(**arguments.pop("cohort")), **arguments)


def posteriors(
    appearances: dict[str, str], vitals: list[float] | None, signal: float
) -> dict[str, dict[str | None, float]]:
    """Return P(class | look, vitals) for both archetypes of an image without interaction.

    Args:
        appearances: look of archetypes "A" and "B": a class, "none" or "ambiguous".
        vitals: (6,) in SD units, NaN where missing; None if all are missing or unused.
        signal: λ.
    """
    joint = class_weights(appearances, vitals, signal)
    return {"A": shares("A", joint.sum(1)), "B": shares("B", joint.sum(0))}


@lru_cache(maxsize=1)
def raw_scenes(settings: RawSettings) -> Mapping[str, Radiograph]:
    """Draw again what every read image shows, by its dicom_id; once for all predictions on a tree."""
    radiographs = make_history(settings).radiographs
    return {
        radiographs["dicom_id"].iloc[row]: make_scene(settings, radiographs.iloc[row], int(row))
        for row in choose_radiographs(settings, radiographs)
    }


def raw_oracle_predictions(
    prepared: str | Path,
    raw: str | Path,
    split: str,
    use_record: bool,
    exchange: int | None = None,
) -> list[dict[str, Any]]:
    """Make predictions in COCO results format: the drawn findings, distractors too, scored by their posterior.

    Args:
        prepared: the folder made by ``mdf prepare mimic-eye`` from the tree.
        raw: the tree, made by ``tools/write_raw_mimic.py``.
        split: "train", "val" or "test".
        use_record: whether the vitals of the image's record are known.
        exchange: seed by which every patient gets another's record (:func:`permute_records`); the oracle trusts it as
            if it were the patient's own.  None: own records.

    Raises:
        SourceDataError: an image that the tree does not have.
    """
    path = Path(prepared) / "annotations" / f"{split}.json"
    data, settings = read_json(path, SourceDataError), read_settings(raw)
    images = data["images"] if exchange is None else permute_records(data["images"], seed=exchange)
    scenes, category = raw_scenes(settings), {c["name"]: c["id"] for c in data["categories"]}
    results = []
    for image in images:
        scene = scenes.get(image["dicom_id"])
        if scene is None:
            raise SourceDataError(f"{path}: image {image['dicom_id']} is not of the tree {raw}; give the tree's folder")
        vitals = vitals_in_sd(image["clinical"]) if use_record else None
        results += [
            {"image_id": image["id"], "category_id": category[label], "bbox": box, "score": chance}
            for label, box, chance in _scored_regions(scene, vitals, settings, image["width"], image["height"])
            if label in category and chance > 0
        ]
    return results


def vitals_in_sd(record: Mapping[str, Any]) -> list[float]:
    """Standardize the six vitals of a record by the generator's means and SDs; NaN where missing."""
    values = np.array([np.nan if record[name] is None else record[name] for name in VITALS], dtype=float)
    return ((values - VITAL_MEANS) / VITAL_SDS).tolist()


def read_as(chances: Mapping[str | None, float], swap: float) -> dict[str, float]:
    """Return P(a reader names the class), from P(class): a reader swaps the two classes of the pair at this rate."""
    first, second = (label for label in chances if label is not None)
    return {
        first: (1 - swap) * chances[first] + swap * chances[second],
        second: (1 - swap) * chances[second] + swap * chances[first],
    }


def _scored_regions(scene: Radiograph, vitals: list[float] | None, settings: RawSettings, width: int, height: int):
    """Return (class, box in pixels, chance) of every finding and both classes of its archetype."""
    looks = {f.archetype: f.appearance for f in scene.findings}
    found = posteriors(looks, vitals, settings.cohort.signal)
    named = {archetype: read_as(chances, SWAP * settings.reader_noise) for archetype, chances in found.items()}
    regions = [
        (label, ellipse_box(f.center, f.radii, width, height), chance)
        for f in scene.findings
        for label, chance in named[f.archetype].items()
    ]
    if scene.cardiothoracic_ratio > 0.5:
        center, radii = heart_ellipse(scene.cardiothoracic_ratio)
        regions.append((CARDIAC_CLASS, ellipse_box(center, radii, width, height), 1.0))
    return regions
