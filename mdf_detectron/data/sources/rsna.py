"""RSNA Pneumonia Detection Challenge: lung opacities; age, sex and view of the DICOM headers.

mdf prepare rsna --root RSNA_ROOT --out datasets/rsna --image-size 512

The challenge's patientId is one per image. Its mapping to NIH ChestX-ray14 tells the patient of each image: 73 % of the
images share their patient with another one.
"""

import logging
from dataclasses import replace
from pathlib import Path

from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.boxes import UNUSABLE_BOX, parse_box
from mdf_detectron.data.sources.kit.collection import AGE, SEX, VIEW, Collection, Content, root_option
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.table import Table, find_file, read_table
from mdf_detectron.data.sources.kit.values import is_empty
from mdf_detectron.errors import SourceDataError, shorten
from mdf_detectron.fileio import read_json

CLASSES = ("Lung opacity",)
LABELS_FILE, IMAGE_FOLDER = "stage_2_train_labels.csv", "stage_2_train_images"
MAPPING_FILE = "pneumonia-challenge-dataset-mappings_2018.json"
SCHEMA = ClinicalSchema((replace(AGE, source="dicom:PatientAge"), replace(SEX, source="dicom:PatientSex"),
                         replace(VIEW, source="dicom:ViewPosition")))  # fmt: skip
ORIGIN = "kaggle.com/c/rsna-pneumonia-detection-challenge"
MAPPING_ORIGIN = "the challenge's page at rsna.org"
SIDE = 1024
"""Width and height of each image; boxes are in these pixels."""

BOX_COLUMNS = ("x", "y", "width", "height")
NOT_MAPPED = "image not in the mapping"


def read_rsna(job: Account, root: str | Path) -> Content:
    """Read the labels, and the mapping to patients if ``root`` has it."""
    root = Path(root).resolve()
    needed = ("patientId", *BOX_COLUMNS, "Target")
    labels = read_table(find_file(root, [LABELS_FILE], ORIGIN), job.problems, needed, origin=ORIGIN)
    mapping = root / MAPPING_FILE
    patients = _patients(mapping) if mapping.is_file() else None
    if patients is None:
        job.say_patients_unknown(f"; put {MAPPING_FILE} into the root, {MAPPING_ORIGIN} has it")
        logging.getLogger(__name__).warning(job.notes[-1])  # before the images are read, which takes long
    source = _read_labels(labels, job)
    studies = []
    for image in source.images:
        patient = image.name if patients is None else patients.get(image.name)
        if patient is None:
            job.drop(NOT_MAPPED, f"{image.where}: {image.name} is not in {MAPPING_FILE}; download it again")
            continue
        studies.append(Study(image, root / IMAGE_FOLDER / f"{image.name}.dcm", patient=patient))
    tables = [labels.path] if patients is None else [labels.path, mapping]
    return Content("RSNA Pneumonia Detection Challenge", source, studies, SCHEMA, tables)


def _patients(path: Path) -> dict[str, str]:
    entries = read_json(path, SourceDataError)
    try:
        return {entry["subset_img_id"]: str(int(entry["img_id"].split("_")[0])) for entry in entries}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        text = f"expected a list of objects with 'subset_img_id' and 'img_id' as 00000001_000.png ({error!r})"
        raise SourceDataError(f"{path}: {text}; download it again from {MAPPING_ORIGIN}") from None


def _read_labels(labels: Table, job: Account) -> SourceAnnotations:
    """Read the labels: one row per box, or one for an image without boxes."""
    images: dict[str, SourceImage] = {}
    source = SourceAnnotations(list(CLASSES))
    unusable: set[str] = set()
    for number, row in enumerate(labels.rows):
        key, place = row["patientId"].strip(), labels.place(number)
        if is_empty(key):
            job.problems.add("row without patientId", f"{place}: patientId is empty")
            continue
        image = images.setdefault(key, SourceImage(key, key, place, (SIDE, SIDE)))
        values = [row[column] for column in BOX_COLUMNS]
        drawn = not all(map(is_empty, values))
        source.boxes_in += drawn
        target = row["Target"].strip()
        if target not in ("0", "1", "0.0", "1.0") or drawn != (float(target) == 1):
            text = f"Target is {shorten(target)} and there is {'a' if drawn else 'no'} box"
            job.problems.add("Target and box disagree", f"{place}: {text}; expected 1 with and 0 without one")
            unusable.add(key)
        elif drawn:
            box = parse_box(values, place, job)
            if box is None:
                source.dropped[UNUSABLE_BOX] += 1
                unusable.add(key)
            else:
                image.boxes.append({"bbox": box, "class": CLASSES[0]})
    source.images_in = len(images)
    source.images = [image for key, image in images.items() if key not in unusable]
    job.image_drops["unusable row (see the problems)"] += len(unusable)
    return source


COLLECTION = Collection(
    "rsna",
    __doc__,
    read_rsna,
    SCHEMA,
    lambda parser: root_option(parser, f"folder with {LABELS_FILE}, {IMAGE_FOLDER}/ and the mapping to NIH"),
    "--root RSNA_ROOT --image-size 512",
)
