"""The synthetic cohort as the files that people with access download.

::

    <out>/physionet/   mimiciv, mimic-iv-ed, mimic-cxr-jpg, reflacx-xray-localization
    <out>/report.json  what it was made with
"""

from collections import deque
from dataclasses import asdict
from pathlib import Path

import cv2
import pandas as pd
from tqdm import tqdm

from mdf_detectron.child_processes import parallel_map
from mdf_detectron.data.prepared import Flow, is_up_to_date, staged_folder, write_report
from mdf_detectron.data.raster import write_image
from mdf_detectron.data.sources.mimic.layout import SYNTHETIC_FILE_NAME
from mdf_detectron.data.synthetic.cohort import Radiograph
from mdf_detectron.data.synthetic.prepare import NOTE
from mdf_detectron.data.synthetic.scene import draw_radiograph
from mdf_detectron.fileio import write_text
from raw_mimic.history import History, RawSettings, make_history
from raw_mimic.readers import Reading, choose_radiographs, make_readings, make_scene
from raw_mimic.tables import (
    ellipse_table,
    make_triage,
    patients_table,
    radiographs_table,
    readings_table,
    stays_table,
    triage_table,
)

RELEASES = {
    "patients": "mimiciv/2.2/hosp/patients.csv.gz",
    "edstays": "mimic-iv-ed/2.2/ed/edstays.csv.gz",
    "triage": "mimic-iv-ed/2.2/ed/triage.csv.gz",
    "metadata": "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-metadata.csv.gz",
}
_MAIN_DATA = "reflacx-xray-localization/1.0.0/main_data"


def write_raw_tree(out: str | Path, settings: RawSettings, num_workers: int = 2) -> bool:
    """Write the tree; returns False if the very same one is there already."""
    arguments = {"raw": True, **asdict(settings)}
    if is_up_to_date(out, arguments):
        return False
    history = make_history(settings)
    rows = choose_radiographs(settings, history.radiographs)
    scenes = [make_scene(settings, history.radiographs.iloc[row], int(row)) for row in rows]
    readings = make_readings(settings, rows, scenes)
    with staged_folder(out) as folder:
        tables = {
            "patients": patients_table(history),
            "edstays": stays_table(history),
            "triage": triage_table(history, make_triage(settings, history.visits)),
            "metadata": radiographs_table(history),
        }
        _write_tables(folder / "physionet", tables)
        _write_readings(folder / "physionet" / _MAIN_DATA, history, readings)
        if not settings.tables_only:
            _draw(folder / "physionet", history.radiographs.iloc[rows], scenes, num_workers)
        flow = Flow()
        flow.add("images", len(history.radiographs), len(rows), {"not read": len(history.radiographs) - len(rows)})
        for root in folder.glob("*/"):
            write_text(root / SYNTHETIC_FILE_NAME, f"{NOTE}\n")
        write_report(folder, "Synthetic source files", arguments, flow, {"synthetic": True, "notes": [NOTE]})
    return True


def _write_tables(root: Path, tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tqdm(tables.items(), desc="writing tables", unit="table"):
        path = root / RELEASES[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False, compression={"method": "gzip", "compresslevel": 1, "mtime": 0})


def _write_readings(main_data: Path, history: History, readings: list[Reading]) -> None:
    main_data.mkdir(parents=True)
    for phase in (1, 2, 3):
        table = readings_table(history, readings, phase)
        table.to_csv(main_data / f"metadata_phase_{phase}.csv", index=False, lineterminator="\r\n")
    for reading in tqdm(readings, desc="writing readings", unit="reading"):
        folder = main_data / reading.reading_id
        folder.mkdir()
        ellipse_table(reading).to_csv(folder / "anomaly_location_ellipses.csv", index=False)


def image_name(radiograph: pd.Series) -> str:
    """Return the path of an image below the release of the images."""
    subject = f"p{radiograph['subject_id']:08d}"
    return f"files/{subject[:3]}/{subject}/s{radiograph['study_id']}/{radiograph['dicom_id']}.jpg"


def _draw_one(item: tuple[Path, Radiograph]) -> None:
    path, scene = item
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, draw_radiograph(scene), [cv2.IMWRITE_JPEG_QUALITY, 95])


def _draw(root: Path, radiographs: pd.DataFrame, scenes: list[Radiograph], num_workers: int) -> None:
    base = root / Path(RELEASES["metadata"]).parent
    items = [
        (base / image_name(radiograph), scene)
        for (_, radiograph), scene in zip(radiographs.iterrows(), scenes, strict=True)
    ]
    deque(parallel_map(_draw_one, items, num_workers, "drawing"), maxlen=0)
