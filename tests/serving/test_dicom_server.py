"""A round trip through a real DICOM server: Orthanc of the system, with a configuration and a store of its own.

The image is sent as a modality sends it (C-STORE) and fetched as a workstation fetches it (C-GET); so is the report.
"""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from dicom_files import radiograph, save
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from mdf_detectron.cli.predict import main

hd = pytest.importorskip("highdicom", reason="highdicom is not installed (extra sr)")

PROGRAMS = ("Orthanc", "storescu", "getscu")
ABSENT = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(
    bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (apt-get install orthanc dcmtk)"
)
TITLE = "WORKSTATION"
"""The only peer that the server talks to, and only from this machine."""


class Server:
    """An Orthanc on loopback ports.

    Args:
        folder: for its configuration and all it stores.
        http, dicom: ports.
    """

    def __init__(self, folder, http: int, dicom: int):
        self.folder, self.url, self.dicom = folder, f"http://127.0.0.1:{http}", dicom
        settings = {
            "Name": "test", "StorageDirectory": str(folder / "store"), "IndexDirectory": str(folder / "store"),
            "HttpPort": http, "DicomPort": dicom, "DicomAet": "ORTHANC", "Plugins": [], "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "DicomAlwaysAllowEcho": False, "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {"test": {"AET": TITLE, "Host": "127.0.0.1", "Port": 1, "AllowStore": True,
                                         "AllowGet": True, "AllowTranscoding": False}},
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        with open(folder / "log.txt", "w") as log:
            self.process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)

    def wait(self, seconds: float = 30) -> None:
        """Wait until it answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("system")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise AssertionError(f"Orthanc did not start:\n{(self.folder / 'log.txt').read_text()[-2000:]}")

    def ask(self, what: str):
        """Answer of the REST interface."""
        with urllib.request.urlopen(f"{self.url}/{what}", timeout=10) as answer:
            return json.load(answer)

    def store(self, path, title: str = TITLE) -> subprocess.CompletedProcess:
        """Send a file by C-STORE."""
        command = ["storescu", "-aet", title, "-aec", "ORTHANC", "127.0.0.1", str(self.dicom), str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def fetch(self, folder, **keys: str):
        """Fetch one study's series of a modality by C-GET; returns its files."""
        folder.mkdir()
        wanted = [word for name, value in keys.items() for word in ("-k", f"{name}={value}")]
        command = ["getscu", "-aet", TITLE, "-aec", "ORTHANC", "-S", "-k", "QueryRetrieveLevel=SERIES", *wanted,
                   "-od", str(folder), "127.0.0.1", str(self.dicom)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(folder.iterdir())

    def stop(self) -> None:
        self.process.kill()  # an orderly end takes seconds, and nothing of its store is kept
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory, free_ports):
    running = Server(tmp_path_factory.mktemp("orthanc"), *free_ports(2))
    try:
        running.wait()
        yield running
    finally:
        running.stop()


def test_an_image_comes_from_a_server_and_its_report_goes_back(server, tiny_run, tiny_folder, tmp_path):
    pixels = np.asarray(Image.open(tiny_folder / "images" / "test_2.png"))
    study, series = generate_uid(), generate_uid()
    sent = radiograph(pixels, 8, Modality="DX", PatientName="Test^One", PatientID="T1", PatientSex="F",
                      StudyInstanceUID=study, SeriesInstanceUID=series)  # fmt: skip
    done = server.store(save(sent, tmp_path / "sent.dcm"))
    assert done.returncode == 0, done.stdout + done.stderr

    (image,) = server.fetch(tmp_path / "fetched", StudyInstanceUID=study, SeriesInstanceUID=series)
    main(["--weights", str(tiny_run / "model_final.pth"), "--images", str(image), "--out", str(tmp_path / "out"),
          "--device", "cpu", "--format", "dicom-sr", "--threshold", "0.02", "--dicom-record",
          "gender=PatientSex"])  # fmt: skip
    (said,) = json.loads((tmp_path / "out" / "findings.json").read_text())
    above = [finding for finding in said["findings"] if finding["above_threshold"]]
    assert above and said["record"]["gender"] == "F"

    (written,) = (tmp_path / "out" / "reports").iterdir()
    done = server.store(written)
    assert done.returncode == 0, done.stdout + done.stderr
    (at_server,) = server.ask("studies")  # filed under the image's own study
    modalities = sorted(
        server.ask(f"series/{one}")["MainDicomTags"]["Modality"] for one in server.ask(f"studies/{at_server}")["Series"]
    )
    assert modalities == ["DX", "SR"]

    own_series = dcmread(written).SeriesInstanceUID
    (back,) = server.fetch(tmp_path / "back", StudyInstanceUID=study, SeriesInstanceUID=own_series)
    report = hd.sr.srread(back)
    assert (report.StudyInstanceUID, report.PatientID, report.Modality) == (study, "T1", "SR")
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == series
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == sent.SOPInstanceUID
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == len(above)
    for group, finding in zip(groups, above, strict=True):
        assert group.finding_type.meaning == finding["class"]
        (score,) = group.get_measurements()
        assert score.value == pytest.approx(finding["score"], abs=1e-6)
        corners = group.roi.value
        assert [*corners.min(axis=0), *corners.max(axis=0)] == pytest.approx(finding["box"], abs=1e-3)
        source = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert source.ReferencedSOPInstanceUID == sent.SOPInstanceUID


def test_the_test_server_takes_nothing_from_strangers(server, tmp_path):
    path = save(radiograph(np.zeros((8, 8), np.uint8), 8, PatientID="T2", StudyInstanceUID=generate_uid(),
                           SeriesInstanceUID=generate_uid()), tmp_path / "a.dcm")  # fmt: skip
    before = server.ask("instances")
    assert server.store(path, title="STRANGER").returncode != 0 and server.ask("instances") == before
