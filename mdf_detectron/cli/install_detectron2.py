"""Install detectron2 0.6 from PyPI alone: no compiler, no GitHub.

An installed detectron2 is left alone. Otherwise this takes the pure-Python copy of detectron2 0.6 (Apache-2.0) out of
the wheel of the PyPI package LabGym, gives it its own name back, and installs it as an ordinary distribution that ``pip
show detectron2`` knows. The rest of LabGym (GPL-3.0) is neither kept nor installed. The compiled extension
``detectron2._C`` is not part of it: rotated boxes and deformable convolution are absent; mdf_detectron uses neither.
"""

import argparse
import base64
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mdf_detectron.cli.arguments import existing_file
from mdf_detectron.errors import UserError
from mdf_detectron.fileio import sha256_of

SOURCE_NAME, SOURCE_VERSION = "LabGym", "3.1.2"
SOURCE_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
SOURCE_ROOT = "LabGym/detectron2/"
VERSION = "0.6+mdf"
REQUIRES = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)
METADATA = f"""Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 0.6, pure-Python part (no compiled extension), as shipped inside {SOURCE_NAME} {SOURCE_VERSION}
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
Requires-Python: >=3.8
""" + "".join(f"Requires-Dist: {r}\n" for r in REQUIRES)
WHEEL = "Wheel-Version: 1.0\nGenerator: mdf_detectron\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
DIST_INFO = f"detectron2-{VERSION}.dist-info"


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
    if not (digest := sha256_of(wheel)).startswith(expected):
        raise UserError(
            f"{wheel.name} has sha256 {digest}, expected {expected}; nothing was written. Download it again, or "
            f"{otherwise}"
        )


def reroot(name: str, content: bytes) -> bytes:
    """Rename ``LabGym.detectron2`` and ``LabGym/detectron2`` in a file's content to ``detectron2``."""
    if not name.endswith((".py", ".yaml", ".md")):
        return content
    text = content.decode("utf-8")
    return text.replace("LabGym.detectron2", "detectron2").replace("LabGym/detectron2", "detectron2").encode("utf-8")


def build_wheel(source: Path, folder: Path) -> Path:
    """Write ``detectron2-0.6+mdf-py3-none-any.whl`` from the source wheel."""
    target = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(source) as wheel, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:

        def add(name: str, content: bytes) -> None:
            out.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}\n")

        for name in sorted(n for n in wheel.namelist() if n.startswith(SOURCE_ROOT) and not n.endswith("/")):
            inner = name[len("LabGym/") :]
            add(inner, reroot(inner, wheel.read(name)))
        if not record:
            raise UserError(f"{source.name} holds no {SOURCE_ROOT}; nothing was installed")
        add(f"{DIST_INFO}/METADATA", METADATA.encode())
        add(f"{DIST_INFO}/WHEEL", WHEEL.encode())
        out.writestr(f"{DIST_INFO}/RECORD", "".join(record) + f"{DIST_INFO}/RECORD,,\n")
    return target


def install(wheel: Path, with_dependencies: bool) -> None:
    """Install the rebuilt wheel into the running Python with pip."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", str(wheel)]
    if not with_dependencies:
        command.insert(-1, "--no-deps")
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"pip could not install {wheel.name}: {result.stderr.strip()}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=existing_file, help=f"a downloaded {SOURCE_NAME} {SOURCE_VERSION} wheel")
    parser.add_argument("--no-deps", action="store_true", help="do not install what detectron2 requires")
    args = parser.parse_args(argv)
    spec = importlib.util.find_spec("detectron2")
    if spec is not None:
        print(f"detectron2 is already installed ({Path(spec.origin).parent}); left as it is")
        return
    with tempfile.TemporaryDirectory() as folder:
        otherwise = "install detectron2 from source (INSTALL.md)"
        source = args.wheel or download_wheel(SOURCE_NAME, SOURCE_VERSION, Path(folder), otherwise)
        check_sha256(Path(source), SOURCE_SHA256, otherwise)
        install(build_wheel(Path(source), Path(folder)), with_dependencies=not args.no_deps)
    print(f"detectron2 {VERSION} installed (Apache-2.0, pure Python, from {SOURCE_NAME} {SOURCE_VERSION} on PyPI)")
