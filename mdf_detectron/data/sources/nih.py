"""NIH ChestX-ray14 with its list of boxes: eight findings; age, sex and view.

mdf prepare nih --root NIH_ROOT --out datasets/nih --image-size 512

Only 880 images have boxes. Another image with a finding is unlabeled, not healthy: only "No Finding" is healthy.
"""

from pathlib import Path

from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.boxes import UNUSABLE_BOX, parse_box
from mdf_detectron.data.sources.kit.collection import AGE, SEX, VIEW, Collection, Content, root_option
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import Table, find_file, read_table
from mdf_detectron.errors import SourceDataError, shorten

CLASSES = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
           "Pneumothorax")  # fmt: skip
ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOX_FILE = "BBox_List_2017.csv"
SCHEMA = ClinicalSchema((AGE, SEX, VIEW))
ORIGIN = "nihcc.app.box.com/v/ChestXray-NIHCC"
SIDE = 1024
"""Width and height of each released image; boxes are in these pixels."""

HEALTHY, UNLABELED = "No Finding", "a finding, but no box: unlabeled, not healthy"
UNKNOWN_IMAGE, OTHER_LABEL = "box of an unknown image", "box of a finding its image lacks"
_COLUMNS = {"age": "Patient Age", "sex": "Patient Gender", "view": "View Position"}
_RENAMED = {"Infiltrate": "Infiltration"}


def read_nih(job: Account, root: str | Path) -> Content:
    """Read the tables; ``root`` also holds ``images/`` or ``images_001/images/`` …"""
    root = Path(root).resolve()
    needed = ("Image Index", "Finding Labels", "Patient ID", *_COLUMNS.values())
    entries = read_table(find_file(root, ENTRY_FILES, ORIGIN), job.problems, needed, origin=ORIGIN)
    rows: dict[str, int] = {}
    for number, row in enumerate(entries.rows):
        name = row["Image Index"].strip()
        if name in rows:
            text = f"{name} is in {entries.place(rows[name])} too"
            job.problems.add("image in two rows", f"{entries.place(number)}: {text}")
        rows.setdefault(name, number)
    findings = {name: set(entries.rows[number]["Finding Labels"].strip().split("|")) for name, number in rows.items()}
    box_file = find_file(root, [BOX_FILE], ORIGIN)
    source = SourceAnnotations(list(CLASSES), images_in=len(rows))
    boxes = _read_boxes(read_table(box_file, job.problems, origin=ORIGIN), findings, source, job)
    folders = (root / "images", *sorted(root.glob("images_*/images")))
    files = {path.name: path for folder in folders if folder.is_dir() for path in folder.iterdir()}
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
    partly = sum(bool(findings[name] - {box["class"] for box in found}) for name, found in boxes.items())
    if partly:
        job.notes.append(f"{partly} images with boxes have further findings without a box: a detection of one of them "
                         "counts as a false positive.")  # fmt: skip
    return Content("NIH ChestX-ray14", source, studies, SCHEMA, [entries.path, box_file])


def _read_boxes(
    table: Table, findings: dict[str, set[str]], source: SourceAnnotations, job: Account
) -> dict[str, list[dict]]:
    """Read the boxes of each image, by column position: the header is broken (``Bbox [x,y,w,h],,,``)."""
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
        else:
            boxes.setdefault(name, []).append({"bbox": box, "class": label})
    return boxes


COLLECTION = Collection(
    "nih",
    __doc__,
    read_nih,
    SCHEMA,
    lambda parser: root_option(parser, f"folder with {ENTRY_FILES[0]}, {BOX_FILE} and images/"),
    "--root NIH_ROOT --image-size 512",
)
