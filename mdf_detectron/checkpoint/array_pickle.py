"""Read a pickle of arrays and plain values, and nothing else: no code runs, no memory is taken beyond its file's."""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

_MOST_OBJECTS = 1_000_000
"""Objects that a pickle may number; Python's reader makes room for the largest number that is named."""


def load_arrays(path: str | Path) -> Any:
    """Unpickle a file.

    Raises:
        pickle.UnpicklingError: it asks for anything that arrays do not need.
        Exception: whatever a broken pickle leads to.
    """
    content = Path(path).read_bytes()
    for operation, argument, _ in pickletools.genops(content):  # checks every length against what there is
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > _MOST_OBJECTS:
            raise pickle.UnpicklingError(f"it numbers an object {argument:,}")
    return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


class _Array:
    """Stands for ``numpy.ndarray``, which may be named but not called: a call would make an array of any size."""

    def __init__(self, *arguments: Any) -> None:
        raise pickle.UnpicklingError("it makes an array without content")


def _reconstruct(subtype: Any, shape: Any, kind: Any) -> np.ndarray:
    """Make the empty array that a pickle fills with its state."""
    if subtype is not _Array or shape != (0,):
        raise pickle.UnpicklingError("it makes an array without content")
    return np.empty((0,), dtype=np.uint8)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Turn text into bytes, as Python 2's pickles hold them."""
    if not isinstance(text, str) or codecs.lookup(encoding).name != "iso8859-1":
        raise pickle.UnpicklingError("it converts something that is no text of bytes")
    return text.encode("latin1")


_NAMES = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
}
"""All that a pickle of a dict of arrays needs, and what stands for it here."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        key = (module.replace("numpy._core.", "numpy.core."), name)
        if key not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need")
        return _NAMES[key]
