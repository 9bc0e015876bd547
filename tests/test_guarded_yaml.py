"""YAML that may be anything is read in bounded time and memory, or refused with one line."""

import os
import time

import pytest

from mdf_detectron.config_file import read_config_file
from mdf_detectron.errors import ConfigError, UserError
from mdf_detectron.fileio import read_yaml


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def bomb(levels=12, width=9):
    lines = ["a0: &a0 [x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def test_honest_yaml_is_read_as_by_pyyaml(tmp_path):
    text = "base: &b {x: 1, y: [1.5, true, null, 'a b']}\nother: {<<: *b, x: 2}\nlist: [*b, *b]\nsmall: -3\nhex: 0x1F\n"
    base = {"x": 1, "y": [1.5, True, None, "a b"]}
    expected = {"base": base, "other": {**base, "x": 2}, "list": [base, base], "small": -3, "hex": 31}
    assert read_yaml(write(tmp_path, "a.yaml", b"\xef\xbb\xbf" + text.encode()), UserError) == expected
    assert read_yaml(write(tmp_path, "b.yaml", ""), UserError) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(), "more than 100,000 values"),
        ('columns: [{name: "\\uD800"}]', r"'.ud800' holds half of a character .*write the character itself.* line 1"),
        ('"\\ud83d\\ude00": 1', "holds half of a character"),
        ("a: &a [*a]", "the alias .*a.* is part of what it names"),
        ("a: &a {b: *a}", "is part of what it names"),
        ("[" * 60 + "]" * 60, "nested deeper than 50 levels"),
        ("- " * 200_000 + "x", "nested deeper than 50 levels"),
        ("{a: " * 3000, "nested deeper than 50 levels"),
        ("a: " + "9" * 400, "has too many digits"),
        ("a: 9223372036854775808", "beyond 64 bits"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' appears twice"),
        ("{1: a, 0x1: b}", "the key 1 appears twice"),
        ("{[1]: a}", "key"),
        ("{2020-01-01: a}", "no plain value"),
        ("a: 2020-13-45", "month must be in"),
        ("a: !!int ''", "not safe YAML"),
        ("a: !!timestamp x", "not safe YAML"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: b: c", "mapping values are not allowed"),
        ("a\0b", "special characters are not allowed"),
        (b"a: \xff\xfe", "not a text file in UTF-8"),
        ("x" * 1_000_001, "more than 1,000,000 characters"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    path = write(tmp_path, "c.yaml", content)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=rf"c\.yaml: .*{message}") as error:
        read_yaml(path, ConfigError)
    assert time.monotonic() - start < 10
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(path))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    (tmp_path / "folder.yaml").mkdir()
    found = {"pipe": "it is a pipe and no file", "folder": "it is a folder", "circle": "Too many levels of symbolic"}
    for name, message in found.items():
        with pytest.raises(ConfigError, match=rf"{name}\.yaml: cannot be read.*{message}"):
            read_yaml(tmp_path / f"{name}.yaml", ConfigError)
    with pytest.raises(ConfigError, match="not the name of a file"):
        read_yaml("a\0b.yaml", ConfigError)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml("x" * 5000, ConfigError)


def test_bases_are_merged_in_order_and_overridden(tmp_path):
    write(tmp_path, "deep.yaml", "A: {x: 1, y: 1, z: 1}\nB: 1\n")
    write(tmp_path, "one.yaml", "_BASE_: deep.yaml\nA: {y: 2}\n")
    write(tmp_path, "two.yaml", "A: {z: 3}\n")
    path = write(tmp_path, "c.yaml", "_BASE_: [one.yaml, two.yaml]\nC: {d: 4}\n")
    assert read_config_file(path) == {"A": {"x": 1, "y": 2, "z": 3}, "B": 1, "C": {"d": 4}}
    assert read_config_file(write(tmp_path, "empty.yaml", "# nothing\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: c.yaml", "includes itself by _BASE_"),
        ("_BASE_: other.yaml", r"c\.yaml \(the _BASE_ of .*other\.yaml\): includes itself"),
        ("_BASE_: http://example.org/c.yaml", "must be a file of this machine"),
        ("_BASE_: 3", "_BASE_ is 3; expected the path"),
        ("_BASE_: absent.yaml", r"no file at .*absent.yaml \(the _BASE_ of .*c.yaml"),
        ("_BASE_: pipe.yaml", "no file at .*pipe.yaml"),
        (f"_BASE_: [{', '.join(['plain.yaml'] * 40)}]", "more than 30 files"),
        ("_BASE_: plain.yaml\nA: {b: 1}", "A holds keys, but is a value in its _BASE_"),
        ("- a", r"holds \['a'\]; expected KEY: value"),
        ("A: {1: 2}", "the key 1 is no name"),
    ],
)
def test_configs_that_lead_nowhere(tmp_path, text, message):
    os.mkfifo(tmp_path / "pipe.yaml")
    write(tmp_path, "other.yaml", "_BASE_: c.yaml")
    write(tmp_path, "plain.yaml", "A: 1")
    with pytest.raises(ConfigError, match=message) as error:
        read_config_file(write(tmp_path, "c.yaml", text))
    assert "\n" not in str(error.value)
