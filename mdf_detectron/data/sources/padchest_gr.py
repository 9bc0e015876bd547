"""PadChest-GR: findings of radiology reports with boxes; age and sex.

mdf prepare padchest-gr --root PADCHEST_GR_ROOT --out datasets/padchest_gr --image-size 512

The splits are the collection's own, by patient.
"""

import argparse
from pathlib import Path
from typing import Any

from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.boxes import UNUSABLE_BOX, parse_box
from mdf_detectron.data.sources.kit.collection import AGE, SEX, Collection, Content, root_option
from mdf_detectron.data.sources.kit.studies import FRACTION, SPLIT_WORDS, SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import find_file, read_table
from mdf_detectron.data.sources.kit.values import fold, is_empty
from mdf_detectron.errors import SourceDataError, shorten
from mdf_detectron.fileio import read_json

REPORTS_FILE, MASTER_FILE = "grounded_reports_20240819.json", "master_table.csv"
IMAGE_FOLDERS = ("Padchest_GR_files/PadChest_GR", "PadChest_GR", "images")
SCHEMA = ClinicalSchema((AGE, SEX))
ORIGIN = "bimcv.cipf.es/bimcv-projects/padchest-gr"

UNBOXED = "an abnormal finding without a box: unlabeled, not healthy"
DOUBLED, NO_ROW, NO_SPLIT = "image in two entries", "not in the master table", "no split"
_COLUMNS = ("StudyID", "ImageID", "PatientID", "PatientAge", "PatientSex_DICOM", "split")


def read_padchest_gr(job: Account, root: str | Path, *, min_images: int = 10) -> Content:
    """Read the reports and the master table; merge labels boxed in fewer than ``min_images`` images into "other"."""
    root = Path(root).resolve()
    reports = find_file(root, [REPORTS_FILE], ORIGIN)
    master = read_table(find_file(root, [MASTER_FILE], ORIGIN), job.problems, _COLUMNS, origin=ORIGIN)
    entries = read_json(reports, SourceDataError)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("findings"), list)
                                                for e in entries):  # fmt: skip
        raise SourceDataError(f"{reports}: expected a list of studies with 'findings'; download it again from {ORIGIN}")
    # keep an image's first row: the table has one per sentence
    rows = {row["ImageID"].strip(): row for row in reversed(master.rows)}
    folder = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root / IMAGE_FOLDERS[0])
    source = SourceAnnotations(images_in=len(entries))
    studies, seen = [], set()
    for number, entry in enumerate(entries):
        where = f"{reports.name} entry {number}"
        name = str(entry.get("ImageID", "")).strip()
        row = rows.get(name)
        split = None if row is None else SPLIT_WORDS.get(fold(row["split"]))
        boxes, unboxed = _boxes(entry["findings"], where, source, job)
        if reason := DOUBLED if name in seen else NO_ROW if row is None else NO_SPLIT if split is None else None:
            job.drop(reason, f"{where}: ImageID {shorten(name)}: {reason}; download both files again")
        elif unboxed and not boxes:
            job.image_drops[reason := UNBOXED] += 1
        seen.add(name)
        if reason:
            continue
        values = {"age": row["PatientAge"], "sex": row["PatientSex_DICOM"]}
        image = SourceImage(name, name, where, FRACTION, boxes)
        studies.append(Study(image, folder / name, row=values, patient=row["PatientID"], split=split))
    source.class_names = _classes(studies, min_images)
    job.notes.append("The splits are the collection's own, by patient.")
    job.notes.append(f"Labels boxed in fewer than {min_images} images are the class 'other' (--min-images).")
    tables, choices = [reports, master.path], {"min_images": min_images}
    return Content("PadChest-GR", source, studies, SCHEMA, tables, choices)


def _boxes(
    findings: list[Any], where: str, source: SourceAnnotations, job: Account
) -> tuple[list[dict[str, Any]], bool]:
    """Return the boxes of abnormal findings, one per box and label, and whether an abnormal finding has no box."""
    boxes, unboxed = [], False
    for finding in findings:
        if not isinstance(finding, dict) or not finding.get("abnormal"):
            continue  # negated sentences ("no effusion") often lack the other keys
        labels = finding.get("labels") or []
        drawn = [*(finding.get("boxes") or []), *(finding.get("extra_boxes") or [])]
        unboxed = unboxed or not drawn
        for values in drawn:
            source.boxes_in += len(labels)
            bbox = parse_box(values if isinstance(values, list) else [values], where, job, corners=True)
            if bbox is None:
                source.dropped[UNUSABLE_BOX] += len(labels)
                continue
            boxes += [{"bbox": bbox, "class": str(label).strip().lower()} for label in labels if not is_empty(label)]
            source.dropped["box without a label"] += sum(map(is_empty, labels))
    return boxes, unboxed


def _classes(studies: list[Study], min_images: int) -> list[str]:
    """Return the frequent labels in order, then "other"; rename rare labels in place."""
    count: dict[str, int] = {}
    for study in studies:
        for label in {box["class"] for box in study.image.boxes}:
            count[label] = count.get(label, 0) + 1
    frequent = sorted(label for label, n in count.items() if n >= min_images and label != "other")
    rare = [box for s in studies for box in s.image.boxes if box["class"] not in frequent]
    for box in rare:
        box["class"] = "other"
    return [*frequent, "other"] if rare else frequent


def add_options(parser: argparse.ArgumentParser) -> None:
    root_option(parser, f"folder with {REPORTS_FILE}, {MASTER_FILE} and the images")
    parser.add_argument("--min-images", type=int, default=10, help="rarer labels become 'other' (%(default)s)")


COLLECTION = Collection(
    "padchest-gr", __doc__, read_padchest_gr, SCHEMA, add_options, "--root PADCHEST_GR_ROOT --image-size 512"
)
