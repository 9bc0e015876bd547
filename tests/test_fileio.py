"""Files are whole or absent, and every unreadable one is one line that names it."""

import csv
import gzip
import os

import pytest

from mdf_detectron.errors import ResultsError, UserError, shorten
from mdf_detectron.fileio import (
    atomic_path,
    csv_table,
    markdown_table,
    read_csv,
    read_json,
    remove_partial_files,
    write_json,
    write_text,
)


def test_shorten_is_one_short_line_of_any_value():
    assert shorten("a") == "'a'" and shorten([1, 2]) == "[1, 2]"
    for value in ("x" * 10**6, [1.5] * 10**6, {"k": "v\n" * 500}, "line\nbreak"):
        text = shorten(value)
        assert len(text) <= 80 and "\n" not in text
    assert shorten("begin" + "x" * 200 + "end").startswith("'begin") and shorten("x" * 200 + "end").endswith("end'")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = write_text(tmp_path / "deep" / "file.txt", "first")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "first" and os.listdir(target.parent) == ["file.txt"]
    with atomic_path(target) as partial:
        partial.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second" and os.listdir(target.parent) == ["file.txt"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.+report.json: cannot be written \(.+\)$"):
        write_text(tmp_path / "file" / "report.json", "text")


def test_json_round_trip_without_nan(tmp_path):
    path = write_json(tmp_path / "a.json", {"é": [1.5, float("nan"), float("inf")], "b": None})
    assert read_json(path, UserError) == {"é": [1.5, None, None], "b": None}
    assert "é" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b" \n", "the file is empty"), (b"{", "not JSON .*line 1"),
     (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' appears twice in the object"),
     (b'[{"a": NaN}]', "it holds NaN, which JSON does not have; write null"),
     (b"[-Infinity]", "it holds -Infinity"), (b'["\\ud800"]', "half of a character"),
     (b"\xff\xfe{\x00", "not a text file in UTF-8"), (b"[" * 200_000, "nested too deeply"),
     (b"1" * 10_000, "not readable as JSON .*4300")],
)  # fmt: skip
def test_json_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=rf"a\.json: .*{message}") as error:
        read_json(path, ResultsError)
    assert "\n" not in str(error.value)


def test_json_marks_folders_and_nan(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[NaN, 1]")
    assert str(read_json(tmp_path / "a.json", UserError, nan=True)) == "[nan, 1]"
    with pytest.raises(UserError, match=r"absent.json: cannot be read \(No such file"):
        read_json(tmp_path / "absent.json", UserError)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path, UserError)


def test_csv_lines_are_where_rows_begin(tmp_path):
    text = '\ufeffid,note\r\n1,"two\r\nlines"\r\n\r\n2,"a, b"\r\n3\r\n'
    expected = [(1, ["id", "note"]), (2, ["1", "two\r\nlines"]), (5, ["2", "a, b"]), (6, ["3"])]
    (tmp_path / "a.csv").write_bytes(text.encode())
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert list(read_csv(tmp_path / "a.csv", UserError)) == expected
    assert list(read_csv(tmp_path / "a.csv.gz", UserError)) == expected
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text.encode() * 50)[:-20])
    (tmp_path / "bytes.csv").write_bytes(b"id\n\xff\n")
    for name in ("cut.csv.gz", "bytes.csv", "absent.csv"):
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            list(read_csv(tmp_path / name, UserError))


def test_tables_hold_what_they_are_given():
    header, rows = ["a|b", "c"], [["1\n2", 3], [None, "x,y"]]
    assert markdown_table(header, rows) == "| a\\|b | c |\n| --- | --- |\n| 1 2 | 3 |\n| None | x,y |\n"
    parsed = list(csv.reader(csv_table(header, rows).splitlines(keepends=True)))
    assert parsed == [["a|b", "c"], ["1\n2", "3"], ["", "x,y"]]


def test_what_dead_runs_were_writing_is_removed(tmp_path):
    for name in ("a.json.77.partial", "b.partial", "c.json", "below/d.pth.8.partial"):
        write_text(tmp_path / name, "x")
    remove_partial_files(tmp_path, tmp_path / "absent")
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["b.partial", "below/d.pth.8.partial", "c.json"]


def test_a_message_stays_readable_whatever_is_in_it():
    text = str(
        UserError(f"a.csv: column {'x' * 20_000}: expected a number; correct it\n  second line {'word ' * 5000}end")
    )
    first, second = text.split("\n")
    assert (
        first.startswith("a.csv: column xxx") and first.endswith("expected a number; correct it") and len(first) < 200
    )
    assert len(second) <= 600 and second.endswith("word end")
    assert str(UserError("column 'a\nb' is short")) == "column 'a b' is short"


def test_a_text_with_half_of_a_character_is_one_line(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UserError, match=r"a.txt: cannot be written, 'class .udcff' holds half of a character; use"):
        write_text(tmp_path / "a.txt", "class \udcff")
    assert (tmp_path / "a.txt").read_text() == "old"
