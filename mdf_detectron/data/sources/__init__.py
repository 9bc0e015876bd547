"""List the collections of ``mdf prepare``; each is a module that ends in ``COLLECTION``."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mdf_detectron.data.sources.kit.collection import Collection


class Entry(NamedTuple):
    """Module that ends in the collection, and its prepared folder's name in the configs (None: the user names it)."""

    module: str
    folder: str | None = None


class CollectionList(Mapping[str, "Collection"]):
    """Collections by name; each module is imported on first access."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> Collection:
        return importlib.import_module(self.entries[name].module).COLLECTION

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def help(self, name: str) -> str:
        """Return the one-line help (first line of the module's docstring) without importing the module."""
        spec = find_spec(self.entries[name].module)
        text = ast.get_docstring(ast.parse(spec.loader.get_source(spec.name)))
        return (text or "").partition("\n")[0].rstrip(".")

    def folders(self) -> dict[str, str]:
        """Return folder → name of the collections that configs refer to."""
        return {entry.folder: name for name, entry in self.entries.items() if entry.folder}


_SOURCES = "mdf_detectron.data.sources"
COLLECTIONS = CollectionList(
    {
        "own": Entry(f"{_SOURCES}.own.collection"),
        "synthetic": Entry("mdf_detectron.data.synthetic.prepare", "synthetic_cxr"),
        "rsna": Entry(f"{_SOURCES}.rsna", "rsna"),
        "nih": Entry(f"{_SOURCES}.nih", "nih"),
        "vindr": Entry(f"{_SOURCES}.vindr", "vindr"),
        "ms-cxr": Entry(f"{_SOURCES}.ms_cxr", "ms_cxr"),
        "padchest-gr": Entry(f"{_SOURCES}.padchest_gr", "padchest_gr"),
        "covid": Entry(f"{_SOURCES}.covid_chestxray", "covid_cxr"),
        "isic2017": Entry(f"{_SOURCES}.isic2017", "isic2017"),
        "busbra": Entry(f"{_SOURCES}.busbra", "busbra"),
        "breast": Entry(f"{_SOURCES}.breast", "breast"),
        "mimic-eye": Entry(f"{_SOURCES}.mimic.collection", "mimic_eye"),
    }
)
