"""Small sources of every kind of preparation, and its command lines; a part of crash_test.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dicom_files import radiograph, save
from raw_mimic.history import RawSettings
from raw_mimic.tree import write_raw_tree

from mdf_detectron.cli import prepare
from mdf_detectron.data.prepared import SPLITS
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.errors import UserError
from mdf_detectron.fileio import csv_table, read_json, write_json, write_text

RSNA_IMAGES = 24


@dataclass(frozen=True)
class Preparation:
    """A command that prepares a folder.

    Attributes:
        name: of the collection.
        options: all but ``--seed`` and ``--out``.
    """

    name: str
    options: Sequence[str]

    @property
    def main(self) -> Callable[[list[str]], object]:
        """The command line."""
        return prepare.main

    def argv(self, seed: int, out: Path) -> list[str]:
        """Return its arguments."""
        return [self.name, *self.options, "--seed", str(seed), "--out", str(out)]


SYNTHETIC = Preparation("synthetic", ("--num-patients", "24", "--image-size", "64"))


def make_preparations(folder: Path, synthetic: Path) -> list[Preparation]:
    """Write sources into ``folder``, and return the preparations of them.

    Args:
        synthetic: a folder that :data:`SYNTHETIC` has made, which passes for somebody's own data too.
    """
    raw = folder / "raw"
    write_raw_tree(raw, RawSettings(CohortSettings(24, seed=1, image_size=96)), num_workers=1)
    mimic = "--physionet", str(raw / "physionet"), "--image-size", "64", "--folds", "3"
    rsna = "--root", str(_write_rsna(folder / "rsna_source")), "--image-size", "48"
    return [
        SYNTHETIC,
        Preparation("own", _own(folder, synthetic)),
        Preparation("mimic-eye", mimic),
        Preparation("rsna", rsna),
    ]


def _own(folder: Path, source: Path) -> list[str]:
    files = [source / "annotations" / f"{split}.json" for split in SPLITS]
    images = [image for file in files for image in read_json(file, UserError)["images"]]
    rows = [(i["file_name"], i["patient_id"], i["clinical"]["temperature"]) for i in images]
    write_text(folder / "table.csv", csv_table(("file", "patient", "temperature"), rows))
    return ["--annotations", *map(str, files), "--images", str(source / "images"), "--table", str(folder / "table.csv"),
            "--key", "file", "--patient", "patient", "--image-size", "48"]  # fmt: skip


def _write_rsna(root: Path) -> Path:
    """Write RSNA's layout: DICOM files of 64×64 that stand for 1024×1024, two per patient."""
    rng, rows, mapping = np.random.default_rng(0), [], []
    (root / "stage_2_train_images").mkdir(parents=True)
    for number in range(RSNA_IMAGES):
        tags = {"PatientID": f"a{number}", "PatientAge": f"{20 + number:03d}Y", "PatientSex": "FM"[number % 2]}
        image = radiograph(rng.integers(0, 256, (64, 64), dtype=np.uint8), 8, ViewPosition="PA", **tags)
        save(image, root / "stage_2_train_images" / f"a{number}.dcm")
        rows.append((f"a{number}", *((256, 512, 128, 256, 1) if number % 3 else ("", "", "", "", 0))))
        mapping.append({"subset_img_id": f"a{number}", "img_id": f"{number // 2:08d}_{number:03d}.png"})
    header = ("patientId", "x", "y", "width", "height", "Target")
    write_text(root / "stage_2_train_labels.csv", csv_table(header, rows))
    write_json(root / "pneumonia-challenge-dataset-mappings_2018.json", mapping)
    return root
