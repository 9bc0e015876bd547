"""NIH ChestX-ray14 with its list of boxes: eight findings, with age, sex and view of the data entry table.

Only 880 images have boxes. Another image with a finding is unlabeled, not healthy: only "No Finding" is healthy.
"""

from __future__ import annotations

from pathlib import Path

from mdf_detectron.data.sources.kit.collection import UNUSABLE_BOX, Collection, first_file, parse_box, table_with
from mdf_detectron.data.sources.kit.output import Account
from mdf_detectron.data.sources.kit.table import Table, read_table
from mdf_detectron.data.sources.own.boxes import SourceAnnotations, SourceImage
from mdf_detectron.data.sources.own.joining import Study
from mdf_detectron.data.sources.public_schemas import age_sex_view_schema
from mdf_detectron.errors import SourceDataError, shorten

CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)
ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOX_FILE = "BBox_List_2017.csv"
ORIGIN = "nihcc.app.box.com/v/ChestXray-NIHCC"
SIDE = 1024
"""Pixels of each released image's sides, in which the boxes are given."""

HEALTHY, UNLABELED = "No Finding", "a finding, but no box: unlabeled, not healthy"
REPEATED, UNKNOWN_IMAGE, OTHER_LABEL = (
    "repeats another box",
    "box of an unknown image",
    "box of a finding its image lacks",
)
_COLUMNS = {"age": "Patient Age", "sex": "Patient Gender", "view": "View Position"}
_RENAMED = {"Infiltrate": "Infiltration"}


def read_nih(job: Account, root: str | Path) -> Collection:
    """Read the data entry table and the list of boxes; no image is opened.

    Args:
        root: folder of one of :data:`ENTRY_FILES`, of :data:`BOX_FILE`, and of ``images/`` or ``images_001/images/`` …
    """
    root = Path(root).resolve()
    needed = ("Image Index", "Finding Labels", "Patient ID", *_COLUMNS.values())
    entries = table_with(first_file(root, ENTRY_FILES, ORIGIN), needed, job, ORIGIN)
    rows: dict[str, int] = {}
    for number, row in enumerate(entries.rows):
        name = row["Image Index"].strip()
        if name in rows:
            text = f"{name} stands in {entries.place(rows[name])} too"
            job.problems.add("image in two rows", f"{entries.place(number)}: {text}")
        rows.setdefault(name, number)
    findings = {name: set(entries.rows[number]["Finding Labels"].strip().split("|")) for name, number in rows.items()}
    box_file = first_file(root, [BOX_FILE], ORIGIN)
    source = SourceAnnotations([], list(CLASSES), 0, images_in=len(rows))
    boxes = _read_boxes(read_table(box_file, job.problems), findings, source, job)
    files = {path.name: path for folder in _image_folders(root) for path in folder.iterdir()}
    studies = []
    for name, number in rows.items():
        if name not in boxes and findings[name] != {HEALTHY}:
            job.image_drops[UNLABELED] += 1
            continue
        image = SourceImage(name, name, entries.place(number), (SIDE, SIDE), boxes.get(name, []))
        row = entries.rows[number]
        values = {column: row[source_column] for column, source_column in _COLUMNS.items()}
        path = files.get(name, root / "images" / name)
        studies.append(Study(image, path, row=values, patient=row["Patient ID"]))
    source.images = [study.image for study in studies]
    partly = sum(bool(findings[name] - {box["class"] for box in found}) for name, found in boxes.items())
    if partly:
        job.notes.append(f"{partly} images with boxes have further findings without a box: a detection of one of them "
                         "counts as a false positive.")  # fmt: skip
    return Collection("NIH ChestX-ray14", source, studies, age_sex_view_schema(), [entries.path, box_file])


def _image_folders(root: Path) -> list[Path]:
    return [folder for folder in (root / "images", *sorted(root.glob("images_*/images"))) if folder.is_dir()]


def _read_boxes(
    table: Table, findings: dict[str, set[str]], source: SourceAnnotations, job: Account
) -> dict[str, list[dict]]:
    """Boxes of each image. The header is broken (``Bbox [x,y,w,h],,,``): columns are taken by their place."""
    if len(table.columns) < 6:
        raise SourceDataError(f"{table.path}: {len(table.columns)} columns, expected image, finding and x, y, w, h")
    image_column, label_column, *box_columns = table.columns[:6]
    boxes: dict[str, list[dict]] = {}
    for number, row in enumerate(table.rows):
        source.boxes_in += 1
        name, place = row[image_column].strip(), table.place(number)
        label = _RENAMED.get(row[label_column].strip(), row[label_column].strip())
        box = parse_box([row[column] for column in box_columns], place, job)
        if box is None:
            source.dropped[UNUSABLE_BOX] += 1
        elif name not in findings:
            job.problems.add(UNKNOWN_IMAGE, f"{place}: {name} is not in the data entry table")
            source.dropped[UNKNOWN_IMAGE] += 1
        elif label not in CLASSES or label not in findings[name]:
            text = f"{name} has a box of {shorten(label)}, its findings are {', '.join(sorted(findings[name]))}"
            job.problems.add(OTHER_LABEL, f"{place}: {text}")
            source.dropped[OTHER_LABEL] += 1
        elif {"bbox": box, "class": label} in boxes.setdefault(name, []):
            source.dropped[REPEATED] += 1
        else:
            boxes[name].append({"bbox": box, "class": label})
    return {name: found for name, found in boxes.items() if found}
