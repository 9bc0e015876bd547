"""PadChest-GR: findings of radiology reports with boxes; age and sex of the master table, and its splits by patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdf_detectron.data.sources.kit.collection import UNUSABLE_BOX, Collection, first_file, parse_box, table_with
from mdf_detectron.data.sources.kit.output import Account
from mdf_detectron.data.sources.kit.table import Row, Table
from mdf_detectron.data.sources.kit.values import fold, is_empty
from mdf_detectron.data.sources.own.boxes import SourceAnnotations, SourceImage
from mdf_detectron.data.sources.own.joining import SPLIT_WORDS, Study
from mdf_detectron.data.sources.public_schemas import padchest_schema
from mdf_detectron.errors import SourceDataError, shorten
from mdf_detectron.fileio import read_json

REPORTS_FILE, MASTER_FILE = "grounded_reports_20240819.json", "master_table.csv"
IMAGE_FOLDERS = ("Padchest_GR_files/PadChest_GR", "PadChest_GR", "images")
ORIGIN = "bimcv.cipf.es/bimcv-projects/padchest-gr"
FRACTION = (1, 1)
"""Size that boxes are in which are fractions of the image's sides."""

UNBOXED, NO_ROW, NO_SPLIT = (
    "an abnormal finding without a box: unlabeled, not healthy",
    "not in the master table",
    "no split",
)
NO_AREA = "box without area"
_COLUMNS = ("StudyID", "ImageID", "PatientID", "PatientAge", "PatientSex_DICOM", "split")


def read_padchest_gr(job: Account, root: str | Path, *, min_images: int = 10) -> Collection:
    """Read the grounded reports and the master table; no image is opened.

    Args:
        root: folder of :data:`REPORTS_FILE`, :data:`MASTER_FILE` and one of :data:`IMAGE_FOLDERS`.
        min_images: labels boxed in fewer images become the class "other".
    """
    root = Path(root).resolve()
    reports = first_file(root, [REPORTS_FILE], ORIGIN)
    master = table_with(first_file(root, [MASTER_FILE], ORIGIN), _COLUMNS, job, ORIGIN)
    entries = read_json(reports, SourceDataError)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("findings"), list)
                                                for e in entries):  # fmt: skip
        raise SourceDataError(f"{reports}: expected a list of studies with 'findings'; download it again from {ORIGIN}")
    rows = _first_rows(master)
    folder = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root / IMAGE_FOLDERS[0])
    source = SourceAnnotations([], [], 0, images_in=len(entries))
    studies, seen = [], set()
    for number, entry in enumerate(entries):
        where = f"{reports.name} entry {number}"
        name = str(entry.get("ImageID", "")).strip()
        row, split = rows.get(name), None
        if row is not None:
            split = SPLIT_WORDS.get(fold(row["split"]))
        boxes, unboxed = _boxes(entry["findings"], where, source, job)
        reason = ("image in two entries" if name in seen else NO_ROW if row is None else NO_SPLIT if split is None
                  else None)  # fmt: skip
        seen.add(name)
        if reason:
            job.problems.add(reason, f"{where}: ImageID {shorten(name)}: {reason}; download both files again")
        elif unboxed and not boxes:
            reason = UNBOXED
        if reason:
            job.image_drops[reason] += 1
            continue
        values = {"age": row["PatientAge"], "sex": row["PatientSex_DICOM"]}
        image = SourceImage(name, name, where, FRACTION, boxes)
        studies.append(Study(image, folder / name, row=values, patient=row["PatientID"], split=split))
    source.images = [study.image for study in studies]
    source.class_names = _classes(studies, min_images)
    job.notes.append("The splits are the collection's own, by patient.")
    job.notes.append(f"Labels boxed in fewer than {min_images} images are the class 'other' (--min-images).")
    return Collection("PadChest-GR", source, studies, padchest_schema(), [reports, master.path],
                      choices={"min_images": min_images})  # fmt: skip


def _first_rows(master: Table) -> dict[str, Row]:
    """The first row of each image: the table has one a sentence."""
    rows: dict[str, Row] = {}
    for row in master.rows:
        rows.setdefault(row["ImageID"].strip(), row)
    return rows


def _boxes(
    findings: list[Any], where: str, source: SourceAnnotations, job: Account
) -> tuple[list[dict[str, Any]], bool]:
    """Boxes of the abnormal findings, one a box and label, and whether an abnormal finding has none."""
    boxes, unboxed = [], False
    for finding in findings:
        if not isinstance(finding, dict) or not finding.get("abnormal"):
            continue  # "no effusion": such sentences often lack the other keys
        labels = finding.get("labels") or []
        drawn = [*(finding.get("boxes") or []), *(finding.get("extra_boxes") or [])]
        unboxed = unboxed or not drawn
        for values in drawn:
            source.boxes_in += len(labels)
            corners = parse_box(values if isinstance(values, list) else [values], where, job)
            reason = UNUSABLE_BOX if corners is None else None
            if corners and (corners[2] <= corners[0] or corners[3] <= corners[1]):
                job.problems.add(NO_AREA, f"{where}: box {corners}; expected x1, y1, x2, y2 as fractions")
                reason = NO_AREA
            if reason:
                source.dropped[reason] += len(labels)
                continue
            x0, y0, x1, y1 = corners
            boxes += [{"bbox": [x0, y0, x1 - x0, y1 - y0], "class": str(label).strip().lower()}
                      for label in labels if not is_empty(label)]  # fmt: skip
            source.dropped["box without a label"] += sum(map(is_empty, labels))
    return boxes, unboxed


def _classes(studies: list[Study], min_images: int) -> list[str]:
    """The frequent labels in order, then "other" for the rest, which are renamed in place."""
    count: dict[str, int] = {}
    for study in studies:
        for label in {box["class"] for box in study.image.boxes}:
            count[label] = count.get(label, 0) + 1
    frequent = sorted(label for label, n in count.items() if n >= min_images and label != "other")
    rare = [box for s in studies for box in s.image.boxes if box["class"] not in frequent]
    for box in rare:
        box["class"] = "other"
    return [*frequent, "other"] if rare else frequent
