"""Where files are looked for, and the options that are refused."""

import shutil

import pytest

from mdf_detectron.data.sources.mimic.cohort import MimicOptions
from mdf_detectron.data.sources.mimic.layout import mimic_eye_files, physionet_files
from mdf_detectron.errors import SourceDataError
from tests.data.sources.mimic.golden import Case, Tree


@pytest.fixture
def source(tmp_path):
    return Tree([Case(f"c{k}") for k in range(3)]).write_physionet(tmp_path / "source")


def test_the_latest_release_is_read(source):
    shutil.copytree(source / "mimiciv/2.2", source / "mimiciv/2.10")
    assert physionet_files(source).tables["patients"] == [source / "mimiciv/2.10/hosp/patients.csv.gz"]


def test_release_1_has_core(source):
    (source / "mimiciv/2.2/hosp").rename(source / "mimiciv/2.2/core")
    (source / "mimiciv/2.2").rename(source / "mimiciv/1.0")
    assert physionet_files(source).tables["patients"] == [source / "mimiciv/1.0/core/patients.csv.gz"]


def test_path_of_a_radiograph(source, tmp_path):
    path = physionet_files(source).image_path("abc", 10000032, 50414267)
    assert path == source / "mimic-cxr-jpg/2.0.0/files/p10/p10000032/s50414267/abc.jpg"
    elsewhere = physionet_files(source, {"images": tmp_path / "other"}).image_path("abc", 10000032, 50414267)
    assert elsewhere == tmp_path / "other/files/p10/p10000032/s50414267/abc.jpg"
    eye = Tree([Case(f"c{k}") for k in range(3)]).write_mimic_eye(tmp_path / "eye")
    assert mimic_eye_files(eye).image_path("abc", 5, 7) == eye / "patient_5/CXR-JPG/s7/abc.jpg"


def test_options_point_elsewhere(source, tmp_path):
    given = {}
    for name, path in (("patients", "mimiciv/2.2/hosp/patients.csv.gz"),
                       ("edstays", "mimic-iv-ed/2.2/ed/edstays.csv.gz"),
                       ("triage", "mimic-iv-ed/2.2/ed/triage.csv.gz"),
                       ("metadata", "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-metadata.csv.gz"),
                       ("reflacx", "reflacx-xray-localization/1.0.0/main_data")):  # fmt: skip
        given[name] = tmp_path / "elsewhere" / name
        given[name].parent.mkdir(exist_ok=True)
        (source / path).rename(given[name])
    files = physionet_files(source, given)
    assert {name: paths[0] for name, paths in files.tables.items()} == {
        name: path for name, path in given.items() if name != "reflacx"
    }
    assert files.readings == [given["reflacx"] / f"metadata_phase_{k}.csv" for k in (1, 2, 3)]
    with pytest.raises(SourceDataError, match="no .*/nowhere; it comes from physionet.org/content/mimic-iv-ed"):
        physionet_files(source, given | {"triage": tmp_path / "nowhere"})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stay_window_days": -1}, "stay_window_days must be at least 0, got -1"),
        ({"min_certainty": 6}, "min_certainty must be 1 to 5, got 6"),
        ({"mask_shape": "star"}, "mask_shape 'star' is not one of ellipse, box"),
        ({"records": "scan"}, "records 'scan' is not one of reading, image"),
        ({"view": "AP"}, "view 'AP' is not one of frontal, all"),
        ({"protocol": "mine"}, "protocol 'mine' is not one of patient, paper"),
        ({"classes": ("Mass",)}, "classes .*Mass.* unknown.*Lung nodule or mass"),
        ({"classes": ("Atelectasis", "Atelectasis")}, "doubled"),
        ({"classes": ()}, "or none"),
    ],
)
def test_options_that_are_refused(option, message):
    with pytest.raises(SourceDataError, match=message):
        MimicOptions(**option)
