"""Locate the source files in PhysioNet downloads or in MIMIC-Eye's folders, one per patient."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdf_detectron.errors import SourceDataError

TABLES = ("patients", "edstays", "triage", "metadata")

PATHS = (*TABLES, "reflacx", "images")
"""Paths that may differ from PhysioNet's layout."""

_ORIGIN = {
    "patients": "physionet.org/content/mimiciv (hosp/, or core/ in release 1.0)",
    "edstays": "physionet.org/content/mimic-iv-ed (ed/)",
    "triage": "physionet.org/content/mimic-iv-ed (ed/)",
    "metadata": "physionet.org/content/mimic-cxr-jpg",
    "reflacx": "physionet.org/content/reflacx-xray-localization (main_data/)",
}

_PATTERNS = {
    "patients": ("mimiciv/*/hosp/patients.csv", "mimiciv/*/core/patients.csv"),
    "edstays": ("mimic-iv-ed/*/ed/edstays.csv",),
    "triage": ("mimic-iv-ed/*/ed/triage.csv",),
    "metadata": ("mimic-cxr-jpg/*/mimic-cxr-*-metadata.csv",),
}

SYNTHETIC_FILE_NAME = "SYNTHETIC.txt"
"""File at the root of a synthetic tree that describes it."""


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source tree.

    Attributes:
        tables: name → files (one for PhysioNet, one per patient for MIMIC-Eye).
        readings: metadata files of the readings.
        absent_readings: a message for each expected file that is missing.
        reading_folders: folders that hold one folder per reading.
        image_path: (dicom_id, subject_id, study_id) → path of the image.
        synthetic: text of :data:`SYNTHETIC_FILE_NAME`; empty for real data.
    """

    tables: Mapping[str, list[Path]]
    readings: list[Path]
    reading_folders: list[Path]
    image_path: Callable[[str, int, int], Path]
    layout: str
    absent_readings: tuple[str, ...] = ()
    synthetic: str = ""


def physionet_files(
    root: str | Path, overrides: Mapping[str, str | Path | None] | None = None, *, with_readings: bool = True
) -> SourceFiles:
    """Find the files below a folder of PhysioNet projects; use the latest release of each.

    Args:
        root: parent of ``mimiciv/``, ``mimic-iv-ed/``, ``mimic-cxr-jpg/``, ``reflacx-xray-localization/``.
        overrides: a path for any of :data:`PATHS`; ``reflacx`` is the ``main_data`` folder, ``images`` the parent of
            ``files/``.
        with_readings: also find the readings of REFLACX.
    """
    root, given = _folder(root, "--physionet"), {k: Path(v) for k, v in (overrides or {}).items() if v}
    tables = {name: [_given_or_found(name, root, given)] for name in TABLES}
    main_data = given.get("reflacx") or _latest(root, ("reflacx-xray-localization/*/main_data",))
    where = main_data or root / "reflacx-xray-localization/1.0.0/main_data"
    phases = [where / f"metadata_phase_{phase}.csv" for phase in (1, 2, 3)]
    absent = [f"no {path}; it comes from {_ORIGIN['reflacx']}, or point --reflacx to the main_data folder"
              for path in phases if not path.is_file()]  # fmt: skip
    if with_readings and len(absent) == len(phases):
        raise SourceDataError(absent[0])
    images = (
        given.get("images") or _latest(root, ("mimic-cxr-jpg/*/files",), parent=True) or tables["metadata"][0].parent
    )

    def image_path(dicom_id: str, subject_id: int, study_id: int) -> Path:
        return images / "files" / f"p{subject_id:08d}"[:3] / f"p{subject_id:08d}" / f"s{study_id}" / f"{dicom_id}.jpg"

    if not with_readings:
        return SourceFiles(tables, [], [], image_path, "physionet", synthetic=_synthetic(root))
    readings = [path for path in phases if path.is_file()]
    return SourceFiles(tables, readings, [main_data], image_path, "physionet", tuple(absent), _synthetic(root))


def mimic_eye_files(root: str | Path) -> SourceFiles:
    """Find the files of a MIMIC-Eye folder, including the older layout (``Core/`` without ``main_data/``)."""
    root = _folder(root, "--mimic-eye")
    patients = sorted(p for p in root.glob("patient_*") if p.is_dir()) or sorted(root.glob("*/patient_*"))
    if not patients:
        raise SourceDataError(f"no folder patient_<subject_id> in {root}; --mimic-eye points to the folder of them")
    found = {
        "patients": [_first(p, ("Hosp/patients.csv", "Core/patients.csv")) for p in patients],
        "edstays": [_first(p, ("ED/edstays.csv",)) for p in patients],
        "triage": [_first(p, ("ED/triage.csv",)) for p in patients],
        "readings": [_first(p, ("REFLACX/metadata.csv",)) for p in patients],
    }
    found = {name: [path for path in paths if path] for name, paths in found.items()}
    for name, paths in found.items():
        if not paths:
            raise SourceDataError(f"no patient folder of {root} holds the table '{name}' ({len(patients)} "
                                  "folders); download MIMIC-Eye again or use --physionet")  # fmt: skip
    radiographs = next((f for base in (root, *root.parents[:1], patients[0].parent)
                  if (f := _first(base, ("spreadsheets/cxr_meta.csv", "cxr_meta.csv")))), None)  # fmt: skip
    if radiographs is None:
        raise SourceDataError(f"no {root}/spreadsheets/cxr_meta.csv; it is part of MIMIC-Eye, next to the patients")
    readings = found.pop("readings")
    folders = [p.parent / "main_data" if (p.parent / "main_data").is_dir() else p.parent for p in readings]
    by_patient = {p.name: p for p in patients}

    def image_path(dicom_id: str, subject_id: int, study_id: int) -> Path:
        name = f"patient_{subject_id}"
        return by_patient.get(name, root / name) / "CXR-JPG" / f"s{study_id}" / f"{dicom_id}.jpg"

    tables = {**found, "metadata": [radiographs]}
    return SourceFiles(tables, readings, folders, image_path, "mimic-eye", synthetic=_synthetic(root))


def _synthetic(root: Path) -> str:
    path = root / SYNTHETIC_FILE_NAME
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _folder(path: str | Path, option: str) -> Path:
    path = Path(path).resolve()
    if not path.is_dir():
        raise SourceDataError(
            f"no folder {path}; {option} points to the downloaded files (docs/collections.md lists them)"
        )
    return path


def _given_or_found(name: str, root: Path, given: Mapping[str, Path]) -> Path:
    path = given.get(name) or _latest(root, tuple(f"{p}{end}" for p in _PATTERNS[name] for end in (".gz", "")))
    if path is None or not path.is_file():
        wanted = path or root / (_PATTERNS[name][0] + ".gz")
        raise SourceDataError(f"no {wanted}; it comes from {_ORIGIN[name]}, or point --{name} to the file")
    return path


def _latest(root: Path, patterns: tuple[str, ...], parent: bool = False) -> Path | None:
    """Return the match with the highest release number; within a release, the first pattern wins."""
    found = [(tuple(map(int, re.findall(r"\d+", path.relative_to(root).parts[1]))), -rank, path)
             for rank, p in enumerate(patterns) for path in root.glob(p)]  # fmt: skip
    if not found:
        return None
    path = max(found)[2]
    return path.parent if parent else path


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    candidates = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def add_path_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Declare options for paths and for matching visits."""
    for name in names:
        parser.add_argument(f"--{name}", metavar="PATH", help=f"path of {name}, if it is elsewhere")
    parser.add_argument("--stay-window-days", type=float, default=7, help="after departure; 0: inside a visit only")
    parser.add_argument("--keep-unmatched", action="store_true", help="keep images without a visit (age, gender only)")
