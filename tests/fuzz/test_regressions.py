"""What the fuzzer has found, one input a kind: each was a traceback, a hang, a load of memory or code that ran."""

import contextlib
import gzip
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from boundaries import (
    HEADER,
    POSTSCRIPT,
    ROWS,
    dicom,
    encoded,
    png_bomb,
    saved,
    small_checkpoint,
    table_file,
)
from PIL import Image
from pydicom.dataset import Dataset

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.data.readers import read_dicom_tags, read_pixels, read_size
from mdf_detectron.data.sources.kit import table as tables
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.errors import (
    CheckpointError,
    ImageReadError,
    SourceDataError,
)

PIXELS = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
LENGTH_BEYOND = dicom(PIXELS, 12) + b"\x09\x00\x10\x00OB\0\0" + struct.pack("<I", 0xFFFFFFF0)
GRAY_PNG = encoded(Image.fromarray(PIXELS.astype(np.uint8)), "PNG")
LONG_CHUNK = GRAY_PNG.replace(GRAY_PNG[33:41], b"\xff\xff\xff\xf0IDAT")
ROWS_TAG = b"\x28\x00\x10\x00US\x02\x00\x18\x00"
ODD_ROWS = dicom(PIXELS, 12).replace(ROWS_TAG, b"\x28\x00\x10\x00US\x01\x00\x18")
DEFLATED = dicom(PIXELS, 12).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.eps", POSTSCRIPT, "no image of a known format"),
        ("a.png", POSTSCRIPT, "no image of a known format"),
        ("a.png", b"not an image", "cannot read image .*a.png"),
        ("a.png", png_bomb(300_000, 300_000), "a.png: its header says 300000 × 300000 pixels"),
        ("a.png", png_bomb(20_000, 10_000), "more than 64,000,000"),
        ("a.png", png_bomb(8000, 6000, 8, 2), "of color, more than 42,666,666"),
        ("a.png", png_bomb(4800, 4000, 16, 6), "of color, more than 16,000,000"),
        ("a.png", png_bomb(2**31 - 1, 1), "machine's memory|more than"),
        ("a.dcm", DEFLATED, "deflated as a whole"),
        ("a.dcm", ODD_ROWS, "cannot read image"),
        ("a.dcm", dicom(PIXELS, 12, RescaleSlope="1e308", RescaleIntercept="1e308"), "values that are not finite"),
    ],
)
def test_images(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageReadError, match=message) as error:
        read_pixels(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "content"), [("a.dcm", LENGTH_BEYOND), ("a.png", LONG_CHUNK)])
def test_a_length_beyond_the_file_asks_for_no_memory(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    try:
        with contextlib.suppress(ImageReadError):
            read_pixels(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_a_tag_of_no_kind_is_named(tmp_path):
    content = dicom(PIXELS, 12).replace(b"\x10\x00\x20\x00LO", b"\x10\x00\x20\x00L_")
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(ImageReadError, match="the tag PatientID cannot be read|not DICOM"):
        read_dicom_tags(tmp_path / "a.dcm", ["PatientID"])


def test_no_program_is_started_for_an_image(tmp_path):
    (tmp_path / "a.png").write_bytes(POSTSCRIPT)
    started = []
    sys.addaudithook(lambda event, args: started.append(args) if event == "subprocess.Popen" else None)
    for read in (read_size, read_pixels):
        with pytest.raises(ImageReadError):
            read(tmp_path / "a.png")
    assert not started


def test_a_panic_of_a_decoder_is_one_line(tmp_path, monkeypatch):
    class Panic(BaseException):
        pass

    def panic(self):
        raise Panic("index out of bounds")

    (tmp_path / "a.dcm").write_bytes(dicom(PIXELS, 12))
    monkeypatch.setattr(Dataset, "pixel_array", property(panic))
    with pytest.raises(ImageReadError, match="index out of bounds"):
        read_pixels(tmp_path / "a.dcm")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return Checkpoint.open(small_checkpoint(tmp_path_factory.mktemp("model"))).data


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1).expand(10**12), "more elements than the file holds"),
        (torch.zeros(2, 3).to_sparse(), "a tensor of another kind"),
        ([1], "is a list, no tensor"),
    ],
)
def test_weights(checkpoint, tmp_path, value, message):
    (tmp_path / "m.pth").write_bytes(saved({**checkpoint, "model": {**checkpoint["model"], "x": value}}))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path / "m.pth")


POINT = {"threshold": 0.5, "false_positives": 0.25, "sensitivity": None, "boxes": 3}
CALIBRATION = {"source": "x", "criterion": "iobb", "temperature": 1, "detections": 9, "before": {}, "after": {}}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("class_names", ["a", "a"], "class_names is .* expected distinct names"),
     ("class_names", [" ", "a"], r"class_names\[0\]: ' ': "),
     ("columns", ["height"], "columns are .*, the schema has"),
     ("category_ids", [1], "1 category_ids of 2 class_names"),
     ("training", {"datasets": [], "synthetic": False, "images": 1, "patients": 1, "columns": {}},
      "training statistics of column 'age'"),
     ("operating_point", {"source": "x", "criterion": "iobb", "classes": {}}, "no threshold for each"),
     ("operating_point", {"source": "x", "criterion": "iobb", "classes": {"mass": POINT}}, "no threshold for each"),
     ("operating_point", {"source": "x", "criterion": "iobb", "classes": {"a": {**POINT, "threshold": True}}},
      r"operating_point.classes.a.threshold: True"),
     ("calibration", {**CALIBRATION, "temperature": -1.0}, r"temperature: -1.0: input should be greater"),
     ("missing_records", None, "missing_records: None: "),
     ("missing_records", {"missing": "token", "dropout_record": 10**400, "dropout_value": 0.0}, "dropout_record: 10"),
     ("schema", {"columns": 3}, "no 'columns'"), ("results", {1: 2}, "results"), ("more", 1, "unknown key 'more'")],
)  # fmt: skip
def test_contents(checkpoint, key, value, message):
    edited = {**checkpoint, "contents": {**checkpoint["contents"], key: value}}
    with pytest.raises(CheckpointError, match=message) as error:
        Checkpoint("m.pth", edited).contents  # noqa: B018
    assert str(error.value).startswith("m.pth") and "\n" not in str(error.value)


def test_tables_that_unpack_to_more_than_memory(tmp_path, monkeypatch):
    book = table_file(tmp_path, ".xlsx", [HEADER, *ROWS])
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress((",".join(HEADER) + "\n").encode()) + gzip.compress(b"x" * (2 << 20)))
    with pytest.raises(SourceDataError, match="a line of more than 1,048,576 characters"):
        tables.read_table(packed, ProblemList())
    for name, limit, path, message in (
        ("MOST_BYTES", {".xlsx": 100}, book, "unpacked are too many"),
        ("MOST_MEMORY", 1000, table_file(tmp_path, ".csv", [HEADER, *ROWS]), "too large to hold in memory, from line"),
        ("MOST_CHARACTERS", 100, table_file(tmp_path, ".csv", [HEADER, *ROWS]), "more than about 100 characters"),
    ):
        with monkeypatch.context() as patch, pytest.raises(SourceDataError, match=message):
            patch.setattr(tables, name, limit)
            tables.read_table(path, ProblemList())


def test_a_fractional_rescale_is_read(tmp_path):
    (tmp_path / "a.dcm").write_bytes(dicom(PIXELS, 12, RescaleSlope="2.5", RescaleIntercept="-1024"))
    (tmp_path / "b.png").write_bytes(encoded(Image.fromarray(PIXELS), "PNG"))
    assert (read_pixels(tmp_path / "a.dcm")[0] == read_pixels(tmp_path / "b.png")[0]).all()
