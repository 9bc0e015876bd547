"""Parse YAML that may be anything: no objects but plain values, bounded time and memory, one error.

Beyond PyYAML's safe loader this refuses what is legal YAML and no honest file of this project has: aliases that expand
to more than :data:`MOST_NODES` values ("billion laughs"), aliases to what they stand in, deep nesting, integers that no
number of a machine holds, a key twice in one mapping, whose first value would be lost, and half of a character, which
cannot be written to any file again.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from mdf_detectron.errors import UserError, shorten

LONGEST_TEXT = 1_000_000
"""Characters; the pure Python parser reads about 100,000 a second."""

MOST_NODES = 100_000
"""Values of a file, those behind an alias counted as often as they are named."""

DEEPEST = 50
"""Levels of nesting."""

LARGEST_INTEGER = 2**63

_HALF = re.compile("[\ud800-\udfff]")

_PARSE_ERRORS = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    MemoryError,
)
"""Beside its own errors PyYAML lets those of int, datetime and re through, for values such as 2020-13-45."""


def parse_yaml(text: str, where: str, error: type[UserError]) -> Any:
    """Parse one YAML document.

    Args:
        where: the file, for messages.

    Raises:
        UserError: of the class ``error``, one line, for anything that is no YAML or that the module's text refuses.
    """
    if len(text) > LONGEST_TEXT:
        raise error(f"{where}: not read as YAML, it has more than {LONGEST_TEXT:,} characters")
    try:
        return yaml.load(text, Loader=_GuardedLoader)
    except _PARSE_ERRORS as cause:
        message = " ".join((str(cause) or type(cause).__name__).split())
        if len(message) > 200:
            message = f"{message[:120]} … {message[-75:]}"
        raise error(f"{where}: not safe YAML: {message}") from None


class _GuardedLoader(yaml.SafeLoader):
    """``SafeLoader`` that counts while it composes, so that nothing large is ever built."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = self.nodes = 0
        self.sizes: dict[yaml.Node, int] = {}  # of finished nodes, aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if self.depth >= DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", event.start_mark)
        if isinstance(event, yaml.ScalarEvent) and _HALF.search(event.value):
            text = f"{shorten(event.value)} holds half of a character (\\ud800 to \\udfff); write the character itself"
            raise yaml.composer.ComposerError(None, None, text, event.start_mark)
        self.depth += 1
        before = self.nodes
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if node not in self.sizes:
                text = f"the alias *{shorten(event.anchor)} stands in what it names"
                raise yaml.composer.ComposerError(None, None, text, event.start_mark)
            self.nodes += self.sizes[node]
        else:
            self.nodes += 1
            self.sizes[node] = self.nodes - before
        if self.nodes > MOST_NODES:
            text = f"more than {MOST_NODES:,} values, those behind aliases counted each time"
            raise yaml.composer.ComposerError(None, None, text, event.start_mark)
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        """As the parent's; a key that stands twice is an error (one that ``<<`` brings may be set again)."""
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                text = f"the key {shorten(key)} is no plain value"
                raise yaml.constructor.ConstructorError(None, None, text, key_node.start_mark)
            if key in seen:
                text = f"the key {shorten(key)} stands twice in one mapping"
                raise yaml.constructor.ConstructorError(None, None, text, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.Node) -> int:
        if len(node.value) > 100:
            text = f"the integer {shorten(node.value)} has too many digits"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
        value = super().construct_yaml_int(node)
        if not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
            text = f"the integer {shorten(node.value)} is beyond 64 bits"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
        return value


_GuardedLoader.add_constructor("tag:yaml.org,2002:int", _GuardedLoader.construct_yaml_int)
