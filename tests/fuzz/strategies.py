"""Broken inputs of sound ones, as hypothesis strategies: odd values, changed data, changed bytes, changed tables."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

TOKENS = ['"', "'", ",", ";", "\t", "\n", "\r", "{", "}", "[", "]", ":", "- ", "#", "&a ", "*a",
          "!!python/name:os.system ", "NaN", "Infinity", "-Infinity", "null", "\ufeff", "\x00", "\x1b", "\u202e", "é",
          "9" * 400, "1e999", "<<: ", "../", "\\", "%", "|", "=1+1", "_BASE_: ", "[" * 300, "{a: " * 60, "~",
          b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x00" * 4, b"\x80\x00\x00\x00"]  # fmt: skip
PATHS = ["../../outside/secret.png", "../outside/secret.png", "/outside/secret.png", "C:\\secret", "file:///etc/passwd",
         "http://127.0.0.1:9/x", "~root", "a\0b", "a\nb", "..", ".", "", "a/../../outside/secret.png"]  # fmt: skip


def nested(depth: int) -> Any:
    """Return lists in lists."""
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    return deep


odd_values = st.one_of(
    st.sampled_from([
        None, True, False, 0, -1, 1, 1.5, -0.0, 1e-300, 1e308, -1e308, math.nan, math.inf, -math.inf, 2**31, 2**63,
        -(2**63) - 1, 10**400, " ", "x", "0", "1", "-1", "1.0", "nan", "inf", "1e999", "True", "null", "٣", "ß" * 300,
        "x" * 20_000, "\u202egnp.exe", "\ud800", [], {}, [[]], [None], [1, 2, 3, 4], [[1e308] * 6], {"a": 1},
        [[0, 0, 1, 1, math.nan, 2]], {"size": [1, 1], "counts": "x"}, {"size": [10**6, 10**6], "counts": [10**12]},
        [0] * 3000, nested(10), nested(200), "2020-01-01", "1_000", "(1, 2)", "[1, 2", "[nan]", *PATHS,
    ]),
    st.integers(), st.floats(), st.text(max_size=20), st.lists(st.floats(), max_size=5),
)  # fmt: skip
"""Values that few programs expect."""


def _places(data: Any) -> list[tuple[Any, Any]]:
    """List (container, key) of everything in nested data."""
    found, left = [], [data]
    while left:
        one = left.pop()
        if isinstance(one, (dict, list)):
            keys = list(one) if isinstance(one, dict) else list(range(min(len(one), 50)))
            found += [(one, key) for key in keys]
            left += [one[key] for key in keys]
    return found


@st.composite
def changed_data(draw: st.DrawFn, data: Any) -> Any:
    """Draw nested lists and dicts with one to three changes."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        places = _places(data)
        if not places:
            return draw(odd_values)
        container, key = places[draw(st.integers(0, len(places) - 1))]
        value = container[key]
        change = draw(st.sampled_from(("odd", "odd", "odd", "remove", "wrap", "text", "double", "rename", "scale")))
        if change == "remove":
            del container[key]
        elif change == "wrap":
            container[key] = [value]
        elif change == "text":
            container[key] = list(value)[:20] if isinstance(value, str) else str(value)
        elif change == "double" and isinstance(container, list):
            container.insert(key, copy.deepcopy(value))
        elif change == "rename" and isinstance(container, dict):
            other = draw(st.sampled_from(("", " ", "id", "x" * 500, f"{key} ", str(key).upper(), "\ud800")))
            container[other] = container.pop(key)
        elif change == "scale" and isinstance(value, (int, float)) and not isinstance(value, bool):
            container[key] = value * draw(st.sampled_from((-1, 0, 1e6, 1e-9, 1e300, 10**30)))
        else:
            container[key] = copy.deepcopy(draw(odd_values))
    return data


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw content with bits flipped, and parts cut, doubled, inserted or replaced."""
    data = bytearray(content)
    for _ in range(draw(st.sampled_from((1, 1, 2, 3, 8, 30)))):
        # the header decides how the rest is read
        at = draw(st.integers(0, min(len(data), draw(st.sampled_from((len(data), len(data), 64, 512))))))
        span = draw(st.sampled_from((1, 2, 4, 16, 256, len(data) // 3)))
        change = draw(st.sampled_from(("flip", "flip", "flip", "set", "cut", "double", "insert", "end", "token")))
        if change == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "set" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del data[at : at + span]
        elif change == "double":
            data[at:at] = data[at : at + span]
        elif change == "insert":
            data[at:at] = draw(st.binary(max_size=20))
        elif change == "end" and draw(st.integers(0, 2)) == 0:
            del data[at:]
        elif change == "token":
            token = draw(st.sampled_from(TOKENS))
            data[at:at] = token if isinstance(token, bytes) else token.encode()
    return bytes(data)


def dump_json(data: Any) -> bytes:
    """Write JSON with whatever is in it, NaN and lone surrogates included."""
    return json.dumps(data, default=str).encode()


def dump_yaml(data: Any) -> bytes:
    """Write YAML with whatever is in it."""
    return yaml.safe_dump(data, allow_unicode=False).encode("utf-8", "surrogatepass")


def changed_text(data: Any, dump: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    """Draw the text of changed data, a changed text, or both."""
    changed = changed_data(data).map(dump)
    return st.one_of(changed, changed_bytes(dump(data)), changed.flatmap(changed_bytes))


@st.composite
def changed_rows(draw: st.DrawFn, rows: list[list[Any]]) -> list[list[Any]]:
    """Draw a table with odd values, and rows too short, too long, doubled, removed or in the header's place."""
    rows = [list(row) for row in rows]
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        change = draw(st.sampled_from(("value", "value", "value", "short", "long", "double", "remove", "swap")))
        if change == "value" and row:
            value = draw(odd_values)
            row[draw(st.integers(0, len(row) - 1))] = str(value)[:30_000] if not isinstance(value, float) else value
        elif change == "short" and row:
            row.pop()
        elif change == "long":
            row.append("x")
        elif change == "double":
            rows.append(list(row))
        elif change == "remove" and len(rows) > 1:
            rows.remove(row)
        else:
            rows[0], rows[-1] = rows[-1], rows[0]
    return rows
