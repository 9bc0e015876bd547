"""The public ieee8023/covid-chestxray-dataset → prepared folder: boxes of the lungs and a few clinical columns.

Columns that describe what followed the study (survival, intubation, intensive care) are left out: they would leak
the future.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from tqdm import tqdm

from mdf_detectron.data.prepared import (
    Flow,
    PreparedImage,
    is_up_to_date,
    staged_folder,
    summarize_splits,
    write_annotations,
    write_report,
)
from mdf_detectron.data.readers import read_radiograph
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.data.splits import train_val_test
from mdf_detectron.errors import ImageReadError, SourceDataError

METADATA_FILE = "metadata.csv"


ANNOTATION_FILE = "annotations/imageannotation_ai_lung_bounding_boxes.json"


SOURCE = "https://github.com/ieee8023/covid-chestxray-dataset"


def signatures(root: Path) -> dict[str, str]:
    """SHA-256 of the two source files and of the images' names and sizes: another one means other sources.

    Raises:
        SourceDataError: a source file is absent.
    """
    digests = {}
    for name in (METADATA_FILE, ANNOTATION_FILE):
        if not (root / name).is_file():
            raise SourceDataError(f"no {root / name}; --root is a copy of {SOURCE}, which has it")
        digests[name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    files = sorted((p.name, p.stat().st_size) for p in (root / "images").glob("*") if p.is_file())
    digests["images"] = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return digests


def read_table(path: Path, columns: Sequence[str], flow: Flow) -> pd.DataFrame:
    """The metadata as text, one row a file name (the first of several, the others counted), indexed by it.

    Args:
        columns: clinical columns that it must have.

    Raises:
        SourceDataError: not a CSV, or a column is absent.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise SourceDataError(f"{path}: not a CSV table ({error}); download it again") from None
    absent = sorted({"patientid", "filename", "view", "modality", *columns} - set(table.columns))
    if absent:
        raise SourceDataError(f"{path}: no column {absent}; it has {list(table.columns)}")
    unique = table.drop_duplicates("filename")
    flow.add("rows of metadata.csv", len(table), len(unique), {"second row of a file": len(table) - len(unique)})
    return unique.set_index("filename")


def read_lung_boxes(path: Path) -> dict[str, Any]:
    """``images`` and ``annotations`` of the COCO file, and ``names`` (category id → name).

    Raises:
        SourceDataError: not COCO JSON, an id twice, or a file name that leads out of the images folder.
    """
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        names = {c["id"]: c["name"] for c in coco["categories"]}
        files = [(image["id"], image["file_name"]) for image in coco["images"]]
        [annotation["image_id"] for annotation in coco["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceDataError(f"{path}: not COCO detection JSON ({error!r}); download it again") from None
    ids = pd.Series([i for i, _ in files], dtype=object)
    if ids.duplicated().any():
        raise SourceDataError(f"{path}: image id {ids[ids.duplicated()].iloc[0]!r} occurs twice; ids must be unique")
    for _, name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise SourceDataError(f"{path}: file_name {name!r} leads out of the images folder")
    return {"images": coco["images"], "annotations": coco["annotations"], "names": names}


__all__ = ["CLASSES", "covid_clinical_schema", "prepare_covid"]


CLASSES = ("Right Lung", "Left Lung")


XRAY_VIEWS = ("PA", "AP", "AP Supine", "AP Erect")


FRACTIONS = (0.65, 0.10, 0.25)
"""Train, val, test: the collection is small, and fewer test patients would say little."""


def covid_clinical_schema() -> ClinicalSchema:
    """Columns known when the image is taken; most cells are empty."""
    return ClinicalSchema(
        (
            ClinicalColumn("age", "numeric", "years", 0, 120),
            ClinicalColumn("temperature", "numeric", "°C", 30, 45),
            ClinicalColumn("pO2_saturation", "numeric", "%", 50, 100),
            ClinicalColumn("leukocyte_count", "numeric", "10^9/L", 0, 100),
            ClinicalColumn("neutrophil_count", "numeric", "10^9/L", 0, 100),
            ClinicalColumn("lymphocyte_count", "numeric", "10^9/L", 0, 100),
            ClinicalColumn("offset", "numeric", "days", -365, 3650, description="days since the first symptom"),
            ClinicalColumn("sex", "categorical", vocabulary=("F", "M")),
        )
    )


def prepare_covid(
    root: str | Path, out: str | Path, *, seed: int = 1, copy_images: bool = False, on_error: str = "stop"
) -> bool:
    """Write the prepared folder; returns False if the same sources and options made the one that is there.

    Args:
        root: the collection's folder (``metadata.csv``, ``images/``, ``annotations/``).
        copy_images: copy the files instead of linking to them.
        on_error: "stop" at an unreadable image, or "skip" and count it.

    Raises:
        SourceDataError: a source file is absent or lacks a column.
        ImageReadError: an image cannot be read (with ``on_error="stop"``).
    """
    root = Path(root).resolve()
    arguments = {"seed": seed, "copy_images": copy_images, "on_error": on_error, "sources": signatures(root)}
    if is_up_to_date(out, arguments) and all(p.exists() for p in (Path(out) / "images").iterdir()):
        return False
    flow, cleaned, schema = Flow(), Counter(), covid_clinical_schema()
    table = read_table(root / METADATA_FILE, schema.names, flow)
    coco = read_lung_boxes(root / ANNOTATION_FILE)
    with staged_folder(out) as folder:
        records = _records(root, table, coco, schema, flow, cleaned, on_error)
        _bring_images(records, root / "images", folder / "images", copy_images)
        strata = [len(r.annotations) for r in records]
        names = train_val_test([r.patient_id for r in records], strata, seed, FRACTIONS)
        splits = {s: [r for r, n in zip(records, names, strict=True) if n == s] for s in ("train", "val", "test")}
        write_annotations(folder, splits, CLASSES, schema, f"Lungs in public chest radiographs ({SOURCE})")
        values = len(records) * len(schema.columns)
        flow.add("clinical cells", values, values - sum(cleaned.values()), dict(cleaned))
        write_report(folder, "Lungs in public radiographs", arguments, flow,
                     {"splits": summarize_splits(splits, CLASSES, schema)})  # fmt: skip
    return True


def _records(root, table, coco, schema, flow: Flow, cleaned: Counter, on_error: str) -> list[PreparedImage]:
    boxes: dict[Any, list[dict]] = {image["id"]: [] for image in coco["images"]}
    box_drops: Counter = Counter()
    for annotation in coco["annotations"]:
        if annotation["image_id"] in boxes:
            boxes[annotation["image_id"]].append(annotation)
        else:
            box_drops["image not in the file"] += 1
    image_drops: Counter = Counter()
    records = []
    for image in tqdm(coco["images"], desc="reading", unit="image"):
        reason = _why_not(root, table, image)
        size = None if reason else _size(root / "images" / image["file_name"], on_error)
        reason = reason or (None if size else "unreadable image (--on-error skip)")
        if reason:
            image_drops[reason] += 1
            box_drops[f"its image was dropped: {reason}"] += len(boxes[image["id"]])
            continue
        annotations = _annotations(image, size, boxes[image["id"]], coco["names"], box_drops)
        if not annotations:  # every image shows lungs: without a box it is not a healthy one, but an unlabeled one
            image_drops["no usable box"] += 1
            continue
        row = _clean_row(table.loc[image["file_name"]], schema, cleaned)
        records.append(PreparedImage(image["file_name"], *size, row.pop("patient"), row, annotations))
    flow.add("annotated images", len(coco["images"]), len(records), image_drops)
    flow.add("boxes", len(coco["annotations"]), sum(len(r.annotations) for r in records), box_drops)
    unannotated = len(set(table.index) - {i["file_name"] for i in coco["images"]})
    flow.add("rows of the table", len(table), len(table) - unannotated, {"image without lung boxes": unannotated})
    return records


def _why_not(root: Path, table: pd.DataFrame, image: dict[str, Any]) -> str | None:
    name = image["file_name"]
    if not all(_is_number(image.get(k)) and image[k] > 0 for k in ("width", "height")):
        return "entry without the size its boxes are given in"
    if name not in table.index:
        return "no row in metadata.csv"
    if table.loc[name, "modality"] != "X-ray" or table.loc[name, "view"] not in XRAY_VIEWS:
        return "not a frontal radiograph (CT slice or other view)"
    return None if (root / "images" / name).is_file() else "image file absent"


def _size(path: Path, on_error: str) -> tuple[int, int] | None:
    try:
        height, width = read_radiograph(path).shape[:2]
    except ImageReadError:
        if on_error == "skip":
            return None
        raise
    return width, height


def _annotations(image, size: tuple[int, int], annotations, names: dict, drops: Counter) -> list[dict[str, Any]]:
    """Boxes in the file's own pixels: the JSON's are those of another copy of some images."""
    scale_x, scale_y = size[0] / image["width"], size[1] / image["height"]
    kept = []
    for annotation in annotations:
        box, name = annotation.get("bbox"), names.get(annotation.get("category_id"))
        if name not in CLASSES:
            drops["unknown class"] += 1
        elif not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
            drops["no box (null or not four numbers)"] += 1
        else:
            x0, x1 = (min(max(v * scale_x, 0), size[0]) for v in (box[0], box[0] + box[2]))
            y0, y1 = (min(max(v * scale_y, 0), size[1]) for v in (box[1], box[1] + box[3]))
            if x1 - x0 < 1 or y1 - y0 < 1:
                drops["box without area inside the image"] += 1
                continue
            corners = [round(v, 2) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]
            bbox = [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]
            kept.append({"bbox": bbox, "category_id": CLASSES.index(name) + 1, "segmentation": [corners]})
    return kept


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _clean_row(row: pd.Series, schema: ClinicalSchema, cleaned: Counter) -> dict[str, Any]:
    """Values inside their legal range; all else becomes missing, and is counted by column and reason."""
    clean: dict[str, Any] = {"patient": str(row["patientid"])}
    for column in schema.columns:
        text = str(row[column.name]).strip()
        value: Any = None
        if text == "":
            cleaned[f"{column.name}: empty"] += 1
        elif column.kind == "categorical":
            value = text if text in column.vocabulary else None
        else:
            number = _number(text)
            value = number if number is not None and column.minimum <= number <= column.maximum else None
        if value is None and text != "":
            cleaned[f"{column.name}: outside its range or vocabulary"] += 1
        clean[column.name] = value
    return clean


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _bring_images(records: list[PreparedImage], source: Path, target: Path, copy_images: bool) -> None:
    target.mkdir()
    for record in records:
        destination = target / record.file_name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if copy_images:
            destination.write_bytes((source / record.file_name).read_bytes())
        else:
            destination.symlink_to(source / record.file_name)
