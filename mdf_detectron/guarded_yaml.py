"""Parse untrusted YAML into plain values in bounded time and memory, or raise one error.

In addition to PyYAML's safe loader this refuses aliases that expand to more than :data:`MOST_NODES` values ("billion
laughs"), recursive aliases, deep nesting, integers beyond 64 bits, a key twice in one mapping (its first value would be
lost), and unpaired surrogates (they cannot be written again).
"""

import re
from typing import Any, NoReturn

import yaml

from mdf_detectron.errors import UserError, short_text, shorten

LONGEST_TEXT = 1_000_000
"""In characters; the pure Python parser reads about 100,000 per second."""

MOST_NODES = 100_000
"""Maximum number of values in a file; an aliased value counts at each use."""

DEEPEST = 50
"""Maximum nesting depth."""

LARGEST_INTEGER = 2**63

_HALF = re.compile("[\ud800-\udfff]")

_PARSE_ERRORS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
                 MemoryError)  # fmt: skip
"""PyYAML also passes on errors of int, datetime and re, for values such as 2020-13-45."""


def parse_yaml(text: str, where: str, error: type[UserError]) -> Any:
    """Parse one YAML document; raise ``error`` with one line that names ``where`` for anything that is refused."""
    if len(text) > LONGEST_TEXT:
        raise error(f"{where}: not read as YAML, it has more than {LONGEST_TEXT:,} characters")
    try:
        return yaml.load(text, Loader=_GuardedLoader)
    except _PARSE_ERRORS as cause:
        raise error(f"{where}: not safe YAML: {short_text(cause, 200)}") from None


def _refuse(text: str, at: yaml.Event | yaml.Node) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=text, problem_mark=at.start_mark)


class _GuardedLoader(yaml.SafeLoader):
    """``SafeLoader`` that counts nodes while composing, before any value is built."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = self.nodes = 0
        self.sizes: dict[yaml.Node, int] = {}  # finished node → number of values with aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if self.depth >= DEEPEST:
            _refuse(f"nested deeper than {DEEPEST} levels", event)
        if isinstance(event, yaml.ScalarEvent) and _HALF.search(event.value):
            text = shorten(event.value)
            _refuse(f"{text} holds half of a character (\\ud800 to \\udfff); write the character itself", event)
        self.depth += 1
        before = self.nodes
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if node not in self.sizes:
                _refuse(f"the alias *{shorten(event.anchor)} is part of what it names", event)
            self.nodes += self.sizes[node]
        else:
            self.nodes += 1
            self.sizes[node] = self.nodes - before
        if self.nodes > MOST_NODES:
            _refuse(f"more than {MOST_NODES:,} values; those that an alias names count each time", event)
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; refuse a repeated key (one merged by ``<<`` may be overridden)."""
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                _refuse(f"the key {shorten(key)} is no plain value", key_node)
            if key in seen:
                _refuse(f"the key {shorten(key)} appears twice in one mapping", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.Node) -> int:
        if len(node.value) > 100:
            _refuse(f"the integer {shorten(node.value)} has too many digits", node)
        value = super().construct_yaml_int(node)
        if not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
            _refuse(f"the integer {shorten(node.value)} is beyond 64 bits", node)
        return value


_GuardedLoader.add_constructor("tag:yaml.org,2002:int", _GuardedLoader.construct_yaml_int)
