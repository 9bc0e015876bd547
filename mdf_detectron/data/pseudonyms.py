"""Replace patients, ids and times of a prepared folder by keyed pseudonyms.

A pseudonym is an HMAC-SHA256 of the identifier: without the key nobody can identify the patient, even by trying all
ids; the same key gives a patient the same pseudonym in every folder. The key is in a file outside the prepared folder.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from mdf_detectron.data.prepared import REPORT_FILE_NAME, renew_digests
from mdf_detectron.data.raster import write_png
from mdf_detectron.data.readers import AS_STORED, read_pixels
from mdf_detectron.data.times import parse_time
from mdf_detectron.errors import DatasetError
from mdf_detectron.fileio import read_json, read_text, sha256_of, write_text

_HEX_DIGITS = 64
_DIGITS = 16
_LONGEST_SHIFT = 3650 * 24 * 3600 * 10**6

KEPT_KEYS = ("id", "width", "height", "clinical", "match")
"""Image keys that identify nobody; all others, except times and ids, are removed."""


class Pseudonyms:
    """Pseudonyms keyed by a secret ``key`` of at least 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_file(cls, path: str | Path, out: str | Path) -> Pseudonyms:
        """Read the key from a file outside the prepared folder ``out``, or create it, readable by its owner only."""
        path, out = Path(path).resolve(), Path(out).resolve()
        if path == out or out in path.parents:
            raise DatasetError(f"{path}: the key of pseudonyms must not lie in the prepared folder; name another file")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            write_text(path, secrets.token_hex(_HEX_DIGITS // 2) + "\n")
            path.chmod(0o600)
        text = read_text(path, DatasetError).strip()
        if not re.fullmatch(rf"([0-9a-fA-F]{{2}}){{{_HEX_DIGITS // 2},}}", text):
            raise DatasetError(f"{path}: no key of pseudonyms; expected at least {_HEX_DIGITS} hexadecimal digits")
        return cls(bytes.fromhex(text))

    def of(self, kind: str, identifier: Any) -> str:
        """Return an identifier's pseudonym; the same identifier has a different one for each kind."""
        return f"{kind[0]}{self._digest(kind, str(identifier))[:_DIGITS]}"

    def shifted(self, patient: Any, time: str, day: bool = False) -> str:
        """Shift an ISO 8601 time back by up to ten years, clock included; all of a patient's by the same duration.

        Of a ``day``, whole days of it; a clock is left out.
        """
        back = timedelta(days=1) + timedelta(microseconds=int(self._digest("time", str(patient)), 16) % _LONGEST_SHIFT)
        when = parse_time(time).when
        return ((when.date() if day else when) - back).isoformat()

    @property
    def fingerprint(self) -> str:
        """Digits that distinguish keys without revealing them."""
        return self._digest("fingerprint", "")[:_DIGITS]

    def _digest(self, kind: str, text: str) -> str:
        return hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Privacy:
    """What a prepared folder may reveal about patients beyond what training needs.

    Attributes:
        pseudonyms: replace patients, ids, times and file names; None keeps them.
        show_values: include messages about broken entries and example values in the report.
    """

    pseudonyms: Pseudonyms | None = None
    show_values: bool = False

    def check(self, image_size: int | None) -> None:
        """Raise :class:`DatasetError` if images would keep names and headers."""
        if self.pseudonyms and image_size is None:
            raise DatasetError("--pseudonymize needs images of its own: links and copies keep names and headers; give "
                               "the size of copies with --image-size")  # fmt: skip

    def arguments(self) -> dict[str, str]:
        """Return the settings that change a folder's content, for its report."""
        return {"pseudonyms": self.pseudonyms.fingerprint} if self.pseudonyms else {}

    def apply(self, folder: Path) -> None:
        if self.pseudonyms:
            pseudonymize_folder(folder, self.pseudonyms)


OPEN = Privacy()
"""Keep ids, omit values from reports."""


def pseudonymize_folder(folder: Path, pseudonyms: Pseudonyms) -> None:
    """Replace patients, ids, times and file names in a prepared folder and its folds.

    The images, copies without headers, are rewritten without text entries and with the current time: a copy has its
    original's modification time and, for resuming, a digest of its original's path, which confirms a guessed path.
    """
    moved: dict[str, dict[str, str]] = {}
    for path in sorted([*folder.glob("annotations/*.json"), *folder.glob("fold_*/annotations/*.json")]):
        data = read_json(path, DatasetError)
        for image in data["images"]:
            if image["file_name"] not in moved:
                moved[image["file_name"]] = _move_bare(folder / "images", image["file_name"], pseudonyms)
        data["images"] = [_image(image, pseudonyms) | moved[image["file_name"]] for image in data["images"]]
        for annotation in data["annotations"]:
            if "reader" in annotation:
                annotation["reader"] = _each(annotation["reader"], pseudonyms, "reader")
        write_text(path, json.dumps(data, allow_nan=False, ensure_ascii=False))
    for report in (folder / REPORT_FILE_NAME, *folder.glob(f"fold_*/{REPORT_FILE_NAME}")):
        renew_digests(report.parent)


def _move_bare(images: Path, name: str, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Rewrite an image under its pseudonym; return the entries of the new file."""
    target = images / (pseudonyms.of("image", name) + Path(name).suffix)
    write_png(target, read_pixels(images / name, AS_STORED)[0])
    (images / name).unlink()
    return {"file_name": target.name, "sha256": sha256_of(target)}


def _image(image: dict[str, Any], pseudonyms: Pseudonyms) -> dict[str, Any]:
    kept = {key: image[key] for key in KEPT_KEYS if key in image}
    times = {key: value for key, value in image.items() if key.endswith("_time")}
    day = not all(parse_time(time).clock for time in times.values() if time)  # with a day, only days are compared
    patient = image["patient_id"]
    kept |= {key: time and pseudonyms.shifted(patient, time, day) for key, time in times.items()}
    kept |= {key: _each(value, pseudonyms, key) for key, value in image.items() if key.endswith("_id")}
    return {**kept, "patient_id": pseudonyms.of("patient", patient)}


def _each(value: Any, pseudonyms: Pseudonyms, kind: str) -> Any:
    """Replace an id, or each of several (a list, or text separated by spaces); None stays."""
    if value is None or isinstance(value, list):
        return value and [pseudonyms.of(kind, one) for one in value]
    return " ".join(pseudonyms.of(kind, one) for one in (value.split() if isinstance(value, str) else [value]))
