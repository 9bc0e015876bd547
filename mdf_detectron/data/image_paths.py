"""Find image files, and what belongs to an image by the path that an annotation or a table gives it."""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import unquote

from mdf_detectron.data.readers import DICOM_SUFFIXES, is_dicom

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".pgm", *DICOM_SUFFIXES)

_ROBOFLOW = re.compile(r"^(?P<stem>.+?)(?:_(?:png|jpe?g|tiff?|bmp|dcm|dicom))?\.rf\.[0-9a-fA-F]{16,}$")
_LABEL_STUDIO = re.compile(r"^[0-9a-f]{8}-(?P<stem>.+)$")

T = TypeVar("T")


def list_images(folder: Path, skip: Collection[Path] = ()) -> tuple[list[Path], int]:
    """List the images below a folder, sorted, but those of ``skip``; count the other files.

    An image has a known suffix or is DICOM by its content: exports name such files by their UID, or end them in ".IMA".
    Hidden files and DICOMDIR are left out.
    """
    found, others = [], 0
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in names:
            path = Path(root, name)
            if name.startswith(".") or path in skip:
                continue
            known = name.lower().endswith(IMAGE_SUFFIXES)
            if known or (path.is_file() and name.upper() != "DICOMDIR" and is_dicom(path)):
                found.append(path)
            else:
                others += 1
    return sorted(found), others


def stem(name: str) -> str:
    """Return a file name without folders and image suffix."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    suffix = next((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def path_key(name: str, with_suffix: bool = False) -> str:
    """Normalize a path for comparison: its parts with "/", composed letters, without an image's suffix."""
    parts = [p for p in unicodedata.normalize("NFC", name).replace("\\", "/").split("/") if p not in ("", ".")]
    return "/".join(parts if with_suffix else [*parts[:-1], *map(stem, parts[-1:])])


def meant_paths(name: str) -> list[str]:
    """List the paths that a name may mean: as written, then decoded, if a labeling tool wrote it as a URL."""
    return list(dict.fromkeys((name, unquote(name.rsplit("?d=", 1)[-1]))))


def original_stems(name: str) -> list[str]:
    """List the stems that a file had if a labeling tool renamed it, see :func:`version_of` and Label Studio."""
    stems = map(stem, meant_paths(name))
    return [match["stem"] for s in stems for pattern in (_ROBOFLOW, _LABEL_STUDIO) if (match := pattern.match(s))]


def version_of(name: str) -> str | None:
    """Return the stem of the original if the name is that of one of its augmented versions by Roboflow."""
    match = _ROBOFLOW.match(stem(name))
    return match and match["stem"]


class PathIndex(Generic[T]):
    """Values by path. Two paths agree if one is the end of the other: an absolute path, or a name without folders."""

    def __init__(self, items: Iterable[tuple[str, T]]) -> None:
        self._whole: dict[str, list[T]] = {}
        self._ends: dict[str, list[T]] = {}
        for path, value in items:
            self._whole.setdefault(path, []).append(value)
            while "/" in path:
                path = path.partition("/")[2]
                self._ends.setdefault(path, []).append(value)

    def find(self, path: str) -> tuple[list[T], str]:
        """Return the values whose path agrees most, and the leading folders of ``path`` that theirs lacks."""
        if found := self._whole.get(path) or self._ends.get(path):
            return found, ""
        rest = path
        while "/" in rest:
            rest = rest.partition("/")[2]
            if found := self._whole.get(rest):
                return found, path[: -len(rest) - 1]
        return [], ""
