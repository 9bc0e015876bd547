"""A small source tree written by hand, one patient a case, and what must come out of it, written by hand too."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 400, 500
VITALS = {
    "temperature": "98.4", "heartrate": "80", "resprate": "16", "o2sat": "97", "sbp": "120", "dbp": "70", "pain": "3",
    "acuity": "2",
}  # fmt: skip
CLEAN = {"temperature": 98.4, "heartrate": 80.0, "resprate": 16.0, "o2sat": 97.0, "sbp": 120.0, "dbp": 70.0,
         "pain": 3.0, "acuity": 2.0}  # fmt: skip
NOTHING = dict.fromkeys(CLEAN)
MORNING = ("2150-01-10 08:00:00", "2150-01-10 12:00:00")
INSIDE, WINDOW, SEVERAL = "inside a visit", "within the window", "inside several visits, the latest taken"
NO_VISIT, BEFORE = "patient without a visit", "before the first arrival"
TOO_LATE, NO_DEPARTURE = "later than the window after every departure", "only visits without a departure time"

P1 = ("Consolidation", "Atelectasis", "Pleural effusion", "Pleural thickening", "Groundglass opacity", "Mass")
P2 = ("Consolidation", "Atelectasis", "Pleural abnormality", "Groundglass opacity", "Enlarged cardiac silhouette")
LABELS = {1: P1, 2: P2, 3: P2}


@dataclass
class Case:
    """One patient with one image at 10:00 inside a visit from 08:00 to 12:00, and what a case changes.

    ``stay`` is the number of the visit that must be found (from 0), None where none may be.
    """

    name: str
    time: tuple[str, str] = ("21500110", "100000.0")
    visits: list[tuple[str, str]] = field(default_factory=lambda: [MORNING])
    triage: dict[str, str] | None = field(default_factory=dict)
    gender: str = "F"
    anchor: tuple[int, int] = (60, 2150)
    view: str = "AP"
    phase: int = 3
    discarded: str = "False"
    ellipses: list[str] = field(default_factory=list)
    stay: int | None = 0
    match: str = INSIDE
    row: dict = field(default_factory=dict)
    age: float = 60.0
    boxes: list[tuple] = field(default_factory=list)

    @property
    def expected_row(self) -> dict:
        base = NOTHING if self.triage is None else CLEAN
        return {**base, **self.row, "age": self.age, "gender": self.gender}


CASES = [
    # the visit of an image
    Case("inside"),
    Case("midnight", time=("21500110", "0.0"), visits=[("2150-01-09 20:00:00", "2150-01-10 04:00:00")]),
    Case("leading_zeros", time=("21500110", "523.5"), visits=[("2150-01-10 00:05:00", "2150-01-10 00:06:00")]),
    Case("overlapping", visits=[("2150-01-10 07:00:00", "2150-01-10 14:00:00"), MORNING], stay=1, match=SEVERAL),
    Case("before_arrival", time=("21500110", "75959.0"), stay=None, match=BEFORE),
    Case("at_arrival", time=("21500110", "80000.0"), stay=None, match=BEFORE),
    Case("at_departure", time=("21500110", "120000.0"), match=WINDOW),
    Case("last_second_of_window", time=("21500117", "120000.0"), match=WINDOW),
    Case("second_after_window", time=("21500117", "120001.0"), stay=None, match=TOO_LATE),
    Case("departure_missing", visits=[("2150-01-09 08:00:00", "")], match=WINDOW),
    Case("departure_missing_long_ago", visits=[("2150-01-02 08:00:00", "")], stay=None, match=NO_DEPARTURE),
    Case("nearest_of_two", time=("21500112", "100000.0"), stay=1, match=WINDOW,
         visits=[("2150-01-06 08:00:00", "2150-01-06 12:00:00"), MORNING]),
    Case("inside_beats_nearer_departure", stay=0,
         visits=[("2150-01-08 08:00:00", "2150-01-10 11:00:00"), ("2150-01-10 09:00:00", "2150-01-10 09:30:00")]),
    Case("no_visit", visits=[], triage=None, stay=None, match=NO_VISIT),
    # the row
    Case("over_89", anchor=(91, 2148), age=93.0, gender="M"),
    Case("younger_than_anchor", anchor=(60, 2153), age=57.0),
    Case("celsius", triage={"temperature": "37.0"}, row={"temperature": 98.6}),
    Case("decimal_slip", triage={"temperature": "984"}, row={"temperature": None}),
    Case("temperature_edges", triage={"temperature": "113"}, row={"temperature": 113.0}),
    Case("saturation_103", triage={"o2sat": "103"}, row={"o2sat": 100.0}),
    Case("saturation_106", triage={"o2sat": "106"}, row={"o2sat": None}),
    Case("pain_of_ten", triage={"pain": "8/10"}, row={"pain": 8.0}),
    Case("pain_range", triage={"pain": "5-6"}, row={"pain": 5.5}),
    Case("pain_unable", triage={"pain": "unable"}, row={"pain": None}),
    Case("pain_13", triage={"pain": "13"}, row={"pain": None}),
    Case("pressures_swapped", triage={"sbp": "70", "dbp": "120"}, row={"sbp": None, "dbp": None}),
    Case("pressures_equal", triage={"sbp": "90", "dbp": "90"}, row={"sbp": None, "dbp": None}),
    Case("acuity_7", triage={"acuity": "7"}, row={"acuity": None}),
    Case("empty_cells", triage={"heartrate": "", "pain": ""}, row={"heartrate": None, "pain": None}),
    Case("no_triage_row", triage=None),
    # the boxes: "xmin,ymin,xmax,ymax,certainty:labels"
    Case("one_box", ellipses=["100,120,200,260,5:Consolidation"], boxes=[("Consolidation", 100, 120, 100, 140)]),
    Case("several_labels", ellipses=["100,120,200,260,4:Consolidation+Atelectasis+Groundglass opacity"],
         boxes=[("Consolidation", 100, 120, 100, 140), ("Atelectasis", 100, 120, 100, 140)]),
    Case("merge_phase_1", phase=1, ellipses=["10,20,110,220,3:Pleural effusion+Pleural thickening", "1,2,31,42,5:Mass"],
         boxes=[("Pleural abnormality", 10, 20, 100, 200)]),
    Case("merge_phase_2", phase=2, ellipses=["10,20,110,220,3:Pleural abnormality"],
         boxes=[("Pleural abnormality", 10, 20, 100, 200)]),
    Case("off_the_image", ellipses=["-20,-5,80,105,3:Atelectasis", "350,450,420,520,3:Atelectasis"],
         boxes=[("Atelectasis", 0, 0, 80, 105), ("Atelectasis", 350, 450, 50, 50)]),
    Case("outside_the_image", ellipses=["401,10,450,60,5:Atelectasis"]),
    Case("without_area", ellipses=["100,100,100,160,5:Atelectasis"]),
    Case("unlikely", ellipses=["100,100,150,160,2:Atelectasis"]),
    Case("header_only"),
    Case("merge_thickening_alone", phase=1, ellipses=["10,20,110,220,4:Pleural thickening"],
         boxes=[("Pleural abnormality", 10, 20, 100, 200)]),
]  # fmt: skip


def subject(index: int) -> int:
    return 90_000_001 + index


def dicom(index: int) -> str:
    return f"{index:08x}-0-0-0-0"


def reading(index: int, case: Case, reader: int = 0) -> str:
    return f"P{case.phase}{reader + 1:02}R{index:06}"


def stay(index: int, visit: int) -> int:
    return 93_000_000 + 10 * index + visit


class Tree:
    """The lines of every table; tests change them before they are written."""

    def __init__(self, cases: list[Case] = CASES) -> None:
        self.cases = cases
        self.patients = ["subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"]
        self.edstays = ["subject_id,hadm_id,stay_id,intime,outtime,extra"]
        self.triage = ["subject_id,stay_id," + ",".join(VITALS) + ",chiefcomplaint"]
        self.images = ["dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime"]
        self.readings = {phase: [self.metadata_header(phase)] for phase in LABELS}
        self.ellipses: dict[str, str] = {}
        for index, case in enumerate(cases):
            self.add(index, case)

    def add(self, index: int, case: Case) -> None:
        self.patients.append(f"{subject(index)},{case.gender},{case.anchor[0]},{case.anchor[1]},2011 - 2013,")
        for number, (intime, outtime) in enumerate(case.visits):
            self.edstays.append(f"{subject(index)},,{stay(index, number)},{intime},{outtime},x")
            if case.triage is not None:
                # another visit's vitals differ, so that the wrong visit would be seen
                values = {**VITALS, **case.triage} if number == case.stay else {**VITALS, "heartrate": "33"}
                row = ",".join(values.values())
                self.triage.append(f'{subject(index)},{stay(index, number)},{row},"Dyspnea, cough"')
        self.images.append(f"{dicom(index)},{subject(index)},{5000 + index},{case.view},{case.time[0]},{case.time[1]}")
        self.add_reading(index, case)

    @staticmethod
    def metadata_header(phase: int) -> str:
        columns = "id,split,eye_tracking_data_discarded,image,dicom_id,subject_id,image_size_x,image_size_y,"
        return columns + ",".join(LABELS[phase]) + ",Support devices,Other"

    def add_reading(self, index: int, case: Case, reader: int = 0) -> None:
        labels = LABELS[case.phase]
        name = reading(index, case, reader)
        row = [name, "train", case.discarded, "x.dcm", dicom(index), str(subject(index)), str(WIDTH), str(HEIGHT)]
        row += ["0"] * len(labels) + ["False", "free text"]
        self.readings[case.phase].append(",".join(row))
        lines = ["xmin,ymin,xmax,ymax,certainty," + ",".join(labels) + ",Support devices"]
        for text in case.ellipses:
            numbers, _, carried = text.partition(":")
            flags = [str(label in carried.split("+")) for label in labels]
            lines.append(",".join([numbers, *flags, "False"]))
        self.ellipses[name] = "\n".join(lines) + "\n"

    def write_physionet(self, root: Path, zipped: bool = True, newline: str = "\n") -> Path:
        end = ".gz" if zipped else ""
        for lines, path in ((self.patients, "mimiciv/2.2/hosp/patients.csv"),
                            (self.edstays, "mimic-iv-ed/2.2/ed/edstays.csv"),
                            (self.triage, "mimic-iv-ed/2.2/ed/triage.csv"),
                            (self.images, "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-metadata.csv")):  # fmt: skip
            _write(root / (path + end), lines, newline)
        main_data = root / "reflacx-xray-localization/1.0.0/main_data"
        for phase, lines in self.readings.items():
            _write(main_data / f"metadata_phase_{phase}.csv", lines, newline="\r\n")
        for name, text in self.ellipses.items():
            _write(main_data / name / "anomaly_location_ellipses.csv", text.splitlines(), newline)
        for index in range(len(self.cases)):
            name = f"p{subject(index):08d}"
            _radiograph(root / f"mimic-cxr-jpg/2.0.0/files/{name[:3]}/{name}/s{5000 + index}/{dicom(index)}.jpg")
        return root

    def write_mimic_eye(self, root: Path, older: bool = False) -> Path:
        for index, case in enumerate(self.cases):
            folder = root / f"patient_{subject(index)}"
            for lines, path in ((self.patients, "Core/patients.csv" if older else "Hosp/patients.csv"),
                                (self.edstays, "ED/edstays.csv"), (self.triage, "ED/triage.csv")):  # fmt: skip
                own = [line for line in lines[1:] if line.startswith(f"{subject(index)},")]
                _write(folder / path, [lines[0], *own])
            lines = self.readings[case.phase]
            own = [line for line in lines[1:] if f",{subject(index)}," in line]
            _write(folder / "REFLACX/metadata.csv", [lines[0], *own])
            for line in own:
                name = line.split(",")[0]
                base = folder / "REFLACX" / name if older else folder / "REFLACX/main_data" / name
                _write(base / "anomaly_location_ellipses.csv", self.ellipses[name].splitlines())
            _radiograph(folder / f"CXR-JPG/s{5000 + index}/{dicom(index)}.jpg")
        _write(root / "spreadsheets/cxr_meta.csv", [self.images[0] + ",in_reflacx,StudyDateTime",
                                                    *(line + ",True," for line in self.images[1:])])  # fmt: skip
        return root


def add_eye_tracking(root: Path) -> int:
    """Eye-tracking files wherever the sources have some, of a kind that no reader could make sense of."""
    folders = [*root.glob("**/main_data/P*"), *root.glob("**/REFLACX/P*")]
    places = [folder / name for folder in folders for name in ("fixations.csv", "timestamps_transcription.csv")]
    places += [folder.parent / "gaze_data" / folder.name / "gaze.csv" for folder in root.glob("**/main_data/P*")]
    places += [patient / "EyeGaze" / name for patient in root.glob("patient_*")
               for name in ("fixations.csv", "eye_gaze.csv", "metadata.csv")]  # fmt: skip
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b'\xff\x00 id;id;id\n"')
    return len(places)


def _write(path: Path, lines: list[str], newline: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(line + newline for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def _radiograph(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 3 * int(path.name.split("-")[0], 16)  # no two images are the same file
    Image.fromarray(np.full((HEIGHT, WIDTH), number, np.uint8)).save(path)
