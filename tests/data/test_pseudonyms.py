"""Pseudonyms are keyed, the same for the same patient, and nothing of the source is left in the folder."""

import hashlib
import hmac
import json
import os
import shutil
import stat
from datetime import datetime, timedelta

import numpy as np
import pytest

from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.pseudonyms import Privacy, Pseudonyms, pseudonymize_folder
from mdf_detectron.data.raster import write_png
from mdf_detectron.data.readers import read_pixels
from mdf_detectron.errors import DatasetError


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A prepared folder with times and ids of studies."""
    copy = shutil.copytree(tiny_folder, tmp_path / "tiny")
    for path in copy.glob("annotations/*.json"):
        data = json.loads(path.read_text())
        for image in data["images"]:
            image |= {"study_id": f"S{image['id']}", "reading_id": "R1 R2", "stay_id": None, "note": "Mr Smith",
                      "study_time": "2020-03-01T10:00:00", "row_time": "2020-03-01T09:30:00"}  # fmt: skip
        path.write_text(json.dumps(data))
    return copy


def test_by_hand(tmp_path):
    names = Pseudonyms(b"k" * 32)
    expected = hmac.new(b"k" * 32, b"patient\x00" + b"200", hashlib.sha256).hexdigest()[:16]
    assert names.of("patient", "200") == names.of("patient", 200) == "p" + expected
    assert names.of("study_id", "200") != "s" + expected != Pseudonyms(b"l" * 32).of("patient", "200")
    one, other = (datetime.fromisoformat(names.shifted("200", f"2020-03-0{t}")) for t in ("1T10:00:00", "2T11:30:00"))
    assert other - one == timedelta(days=1, hours=1, minutes=30) and one < datetime(2020, 3, 1)
    assert (one.minute, one.second) != (0, 0) and "T10:00" not in names.shifted("201", "2020-03-01T10:00:00")


@pytest.mark.parametrize(("taken", "drawn"), [
    ("2020-01-01", "2020-01-01T13:00:00"), ("2020-01-01T13:00:00", "2020-01-01"), ("2020-01-02", "2020-01-01"),
])  # fmt: skip
def test_days_stay_days(taken, drawn, folder):
    """Whatever a patient's shift is, a record that is not later than its image stays so."""
    path = folder / "annotations" / "train.json"
    data = json.loads(path.read_text())
    for image in data["images"]:
        image |= {"study_time": taken, "row_time": drawn}
    path.write_text(json.dumps(data))
    pseudonymize_folder(folder, Pseudonyms(b"k" * 32))
    assert not audit_folder(folder).problems
    days = [[datetime.strptime(image[key], "%Y-%m-%d") for key in ("study_time", "row_time")]
            for image in json.loads(path.read_text())["images"]]  # fmt: skip
    apart = datetime.fromisoformat(taken[:10]) - datetime.fromisoformat(drawn[:10])
    assert {image - record for image, record in days} == {apart} and len(set(map(tuple, days))) > 1
    assert max(max(pair) for pair in days) < datetime(2020, 1, 1)


def test_a_folder_keeps_its_content_and_loses_its_names(folder, tmp_path):
    before = json.loads((folder / "annotations" / "train.json").read_text())
    names = Pseudonyms.from_file(tmp_path / "keys" / "key", folder)
    pseudonymize_folder(folder, names)
    after = json.loads((folder / "annotations" / "train.json").read_text())
    assert after["annotations"] == before["annotations"] and after["categories"] == before["categories"]
    for old, new in zip(before["images"], after["images"], strict=True):
        assert new["clinical"] == old["clinical"] and new["id"] == old["id"]
        assert new["patient_id"] == names.of("patient", old["patient_id"]) and len(new["reading_id"].split()) == 2
        assert (folder / "images" / new["file_name"]).is_file() and not (folder / "images" / old["file_name"]).exists()
    text = (folder / "annotations" / "train.json").read_text()
    assert not [word for word in ("Smith", "train-", "train_", "2020-03", "R1", "S1") if word in text]
    assert not audit_folder(folder).problems


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_lose_their_texts_and_times_and_keep_their_pixels(dtype, folder, tmp_path):
    name = json.loads((folder / "annotations" / "train.json").read_text())["images"][0]["file_name"]
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (80, 96)).astype(dtype)
    write_png(folder / "images" / name, pixels, {"mdf_detectron:provenance": "SMITH"})
    os.utime(folder / "images" / name, (1, 1))
    names = Pseudonyms(b"k" * 32)
    pseudonymize_folder(folder, names)
    made = folder / "images" / f"{names.of('image', name)}.png"
    assert b"SMITH" not in made.read_bytes() and made.stat().st_mtime > 1e9
    assert np.array_equal(read_pixels(made, 8 * pixels.itemsize)[0], pixels)


def test_the_key_is_kept_outside_and_for_its_owner(tmp_path):
    path = tmp_path / "key"
    first = Pseudonyms.from_file(path, tmp_path / "out")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Pseudonyms.from_file(path, tmp_path / "out").of("patient", 1) == first.of("patient", 1)
    assert first.fingerprint not in path.read_text()
    with pytest.raises(DatasetError, match="must not lie in the prepared folder"):
        Pseudonyms.from_file(tmp_path / "out" / "key", tmp_path / "out")
    for text in ("short", "x" * 64):
        path.write_text(text)
        with pytest.raises(DatasetError, match="no key of pseudonyms"):
            Pseudonyms.from_file(path, tmp_path / "out")
    with pytest.raises(DatasetError, match="links and copies keep names and headers"):
        Privacy(first).check(None)
