"""Make broken inputs of sound ones: bytes, text, and nested data; everything follows from one random generator."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

INTERESTING = [b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00"]
TOKENS = ['"', "'", ",", ";", "\t", "\n", "\r", "{", "}", "[", "]", ":", "- ", "#", "&a ", "*a",
"!!python/name:os.system ",
          "NaN", "Infinity", "-Infinity", "null", "\ufeff", "\x00", "\x1b", "\u202e", "é", "9" * 400, "1e999", "<<: ",
          "../", "\\", "%", "|", "=1+1", "_BASE_: ", "[" * 300, "{a: " * 60, "~"]  # fmt: skip


def odd_value(rng: random.Random) -> Any:
    """Return a value that few programs expect."""
    deep: Any = 1
    for _ in range(rng.choice((10, 200))):
        deep = [deep]
    return rng.choice([
        None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e-300, 1e308, -1e308, math.nan, math.inf, -math.inf, 2**31, 2**63,
        -(2**63) - 1, 10**400, "", " ", "x", "0", "1", "-1", "1.0", "nan", "inf", "1e999", "True", "null", "٣",
        "ß" * 300,
        "x" * 20_000, "a\0b", "a\nb", "../../outside/secret.png", "../outside/secret.png", "/outside/secret.png",
        "C:\\secret", "http://127.0.0.1:9/x", "file:///etc/passwd", "~root", "\u202egnp.exe", "\ud800", [], {}, [[]],
        [None], [1, 2, 3, 4], [[1e308] * 6], [[0, 0, 1, 1, math.nan, 2]], {"a": 1}, {"size": [1, 1], "counts": "x"},
        {"size": [10**6, 10**6], "counts": [10**12]}, [0] * 3000, deep, "2020-01-01", "1_000", "(1, 2)", "[1, 2",
        "[nan]",
    ])  # fmt: skip


def mutate_data(rng: random.Random, data: Any) -> Any:
    """Return a copy of nested lists and dicts with one to three changes."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _change_somewhere(rng, data)
    return data


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


def _change_somewhere(rng: random.Random, data: Any) -> Any:
    places = _places(data)
    if not places or rng.random() < 0.01:
        return odd_value(rng)
    container, key = rng.choice(places)
    value = container[key]
    change = rng.choice(("odd", "odd", "odd", "remove", "wrap", "text", "double", "rename", "scale", "move"))
    if change == "remove":
        del container[key]
    elif change == "wrap":
        container[key] = [value]
    elif change == "text":
        container[key] = str(value) if not isinstance(value, str) else _number_or_list(value)
    elif change == "double" and isinstance(container, list):
        container.insert(key, copy.deepcopy(value))
    elif change == "rename" and isinstance(container, dict):
        container[rng.choice(("", " ", "id", "x" * 500, key + " ", key.upper(), "\ud800"))] = container.pop(key)
    elif change == "scale" and isinstance(value, (int, float)) and not isinstance(value, bool):
        container[key] = value * rng.choice((-1, 0, 1e6, 1e-9, 1e300, 10**30))
    elif change == "move":
        other, there = rng.choice(places)
        if there in other if isinstance(other, dict) else there < len(other):
            container[key] = copy.deepcopy(other[there])
    else:
        container[key] = odd_value(rng)
    return data


def _number_or_list(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return list(text)[:20]


def mutate_bytes(rng: random.Random, content: bytes, changes: int | None = None) -> bytes:
    """Return a copy with bits flipped, and parts cut, doubled, moved or replaced."""
    data = bytearray(content)
    for _ in range(changes or rng.choice((1, 1, 2, 3, 8, 30))):
        at = rng.randrange(len(data) + 1)
        # the header decides how the rest is read
        at = min(at, rng.choice((len(data), len(data), 64, 512)))
        span = rng.choice((1, 2, 4, 16, 256, len(data) // 3))
        change = rng.choice(("flip", "flip", "flip", "set", "interesting", "cut", "double", "insert", "end", "token"))
        if change == "flip" and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif change == "set" and at < len(data):
            data[at] = rng.randrange(256)
        elif change == "interesting":
            value = rng.choice(INTERESTING)
            data[at : at + len(value)] = value
        elif change == "cut":
            del data[at : at + span]
        elif change == "double":
            data[at:at] = data[at : at + span]
        elif change == "insert":
            data[at:at] = rng.randbytes(min(span, 256))
        elif change == "end" and rng.random() < 0.3:
            del data[at:]
        elif change == "token":
            data[at:at] = rng.choice(TOKENS).encode()
    return bytes(data)


def flip_bit(rng: random.Random, content: bytes) -> bytes:
    """Return a copy with one bit flipped anywhere."""
    return mutate_at(content, rng.randrange(len(content)), rng.randrange(8))


def mutate_at(content: bytes, place: int, bit: int) -> bytes:
    """Return a copy with the bit ``bit`` of the byte at ``place`` flipped."""
    data = bytearray(content)
    data[place] ^= 1 << bit
    return bytes(data)
