"""Atomic writing of files, and the one reader of JSON and writer of Markdown tables."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from collections.abc import Sequence

from mdf_detectron.errors import UserError


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file atomically, making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically."""
    return write_bytes(path, text.encode())


def write_figure(path: str | Path, figure: Figure) -> Path:
    """Write a figure as PNG atomically."""
    return write_bytes(path, png_of(figure))


def png_of(figure: Figure) -> bytes:
    """The PNG file of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def write_json(path: str | Path, data: Any, indent: int | None = 2) -> Path:
    """Write JSON atomically; NaN and infinities, which JSON does not have, become ``null``."""
    return write_text(path, json.dumps(finite_or_none(data), indent=indent, allow_nan=False) + "\n")


def finite_or_none(data: Any) -> Any:
    """The same nested data with None for every float that is not finite."""
    if isinstance(data, dict):
        return {key: finite_or_none(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite_or_none(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def read_json(path: str | Path, error: type[UserError]) -> Any:
    """Content of a JSON file; ``error`` with one line when it is absent, empty or no JSON."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror})") from None
    except UnicodeDecodeError:
        raise error(f"{path}: not a text file, so not JSON") from None
    if not text.strip():
        raise error(f"{path}: the file is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as cause:
        raise error(f"{path}: not JSON ({cause})") from None


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A GitHub-flavored table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines) + "\n"
