"""Find, read and write files: atomic writers, one reader each for JSON, YAML and CSV, and the formatters of tables.

Every reader takes the class of the error that it raises, and every error is one line that names the file.
"""

from __future__ import annotations

import csv
import gc
import gzip
import hashlib
import io
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mdf_detectron.errors import ConfigError, UserError, find_doubled, shorten
from mdf_detectron.guarded_yaml import parse_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PARTIAL_SUFFIX = ".partial"
"""Suffix of files and folders that are being written; those of a dead run are leftovers."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path next to ``path`` to write to; when the block ends without an error, it replaces ``path``.

    The content is on the disk before it gets its name: after a crash the file is whole, old or absent, never
    half-written. The folder is made.

    Raises:
        UserError: the file cannot be written (no permission, a full disk).
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        os.replace(partial, path)
        if os.name == "posix":
            _flush(path.parent)
    except BaseException as cause:
        with suppress(OSError):
            partial.unlink()
        if isinstance(cause, OSError) and not isinstance(cause, UserError):  # an ImageReadError is the block's own
            raise UserError(f"{path}: cannot be written ({cause.strerror or cause})") from None
        raise


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partial_files(*folders: str | Path, of: str = "*") -> None:
    """Remove from folders (not from those below them) what dead runs were writing; the caller holds their lock.

    Args:
        of: pattern of the files that were being written.
    """
    for folder in map(Path, folders):
        for leftover in list(folder.glob(f"{of}.[0-9]*{PARTIAL_SUFFIX}")):
            leftover.unlink()


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file atomically, making its folder; return its path."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically.

    Raises:
        UserError: the text holds half of a character, as an argument that is not UTF-8 does; or as
            :func:`atomic_path`.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as cause:
        around = shorten(text[max(0, cause.start - 20) : cause.end + 20])
        raise UserError(f"{path}: cannot be written, {around} holds half of a character; use names in UTF-8") from None
    return write_bytes(path, content)


def write_figure(path: str | Path, figure: Figure) -> Path:
    """Write a figure as PNG atomically."""
    return write_bytes(path, png_of(figure))


def png_of(figure: Figure) -> bytes:
    """Render a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def write_json(path: str | Path, data: Any, indent: int | None = 2) -> Path:
    """Write JSON atomically; NaN and infinities, which JSON does not have, become ``null``."""
    return write_text(path, json.dumps(finite_or_none(data), indent=indent, allow_nan=False, ensure_ascii=False) + "\n")


def finite_or_none(data: Any) -> Any:
    """Copy nested data with None in place of every float that is not finite."""
    if isinstance(data, dict):
        return {key: finite_or_none(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite_or_none(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def sha256_of(file: str | Path | IO[bytes]) -> str:
    """Compute the SHA-256 of a file's content, of an opened one from where it stands."""
    if isinstance(file, (str, Path)):
        with open(file, "rb") as opened:
            return sha256_of(opened)
    sha = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        sha.update(block)
    return sha.hexdigest()


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def check_regular(path: str | Path, error: type[UserError]) -> os.stat_result:
    """Check that a path is a regular file: opening a pipe would wait forever for somebody to write to it.

    Raises:
        UserError: of the class ``error``: the file is absent, in a circle of links, a folder, a pipe or a device.
    """
    try:
        found = os.stat(path)
    except OSError as cause:
        raise error(f"{shorten_path(path)}: cannot be read ({cause.strerror or cause})") from None
    except ValueError as cause:  # a name with a null character
        raise error(f"{shorten(str(path))}: not the name of a file ({cause})") from None
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise error(f"{shorten_path(path)}: cannot be read, it is {kind} and no file")
    return found


def machine_memory() -> int:
    """Return the bytes of memory of this machine; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 8 << 30


def shorten_path(path: str | Path, longest: int = 200) -> str:
    """Return a path as a message shows it: its end, if it is long, on one line."""
    text = " ".join(str(path).split())
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


CONFIGS = Path(__file__).resolve().parent / "configs"
"""Configs that ship with the package."""


def find_config_file(name: str | Path) -> Path:
    """Find a config file by its path, or by its name below the package's configs ("mimic_eye/mdf_net.yaml").

    Raises:
        ConfigError: there is no such file.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / str(name).removeprefix("configs/")):
        if os.path.isfile(path):
            return path
    near = get_close_matches(Path(name).stem, {path.stem for path in CONFIGS.glob("*/*.yaml")}, n=3)
    raise ConfigError(
        f"no config file at '{shorten_path(name)}'; give a path, or a name of the model zoo such as "
        "'mimic_eye/mdf_net.yaml'" + (f" (names near it: {', '.join(near)})" if near else "")
    )


def file_stamp(path: str | Path) -> tuple[int, int, int] | None:
    """Return what tells a file from an earlier one of its name: size, time of change, number; None if it is absent."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def read_text(path: str | Path, error: type[UserError], *, digest: hashlib._Hash | None = None) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Args:
        digest: is updated with the file's content, so that nobody opens the file again to compute it.

    Raises:
        UserError: of the class ``error``: the file is absent, not regular, unreadable or not UTF-8.
    """
    check_regular(path, error)
    try:
        content = Path(path).read_bytes()
        if digest is not None:
            digest.update(content)
        return content.decode("utf-8-sig")
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror or cause})") from None
    except UnicodeDecodeError as cause:
        raise error(f"{path}: not a text file in UTF-8 (byte {cause.start}); save it as UTF-8") from None
    except MemoryError:
        raise error(f"{path}: too large for the memory of this machine") from None


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_JSON_MEMORY = 10
"""Bytes of memory that a byte of JSON needs, measured on boxes."""


def read_json(
    path: str | Path, error: type[UserError], *, nan: bool = False, digest: hashlib._Hash | None = None
) -> Any:
    """Read a JSON file.

    Args:
        nan: accept the literals NaN, Infinity and -Infinity, which pandas writes though JSON has none; the caller then
            names the entry.
        digest: as for :func:`read_text`.

    Raises:
        UserError: of the class ``error``: the file is absent, empty, no JSON, nested too deeply, or has a key twice in
            one object (its first value would be lost).
    """
    size = check_regular(path, error).st_size
    if size * _JSON_MEMORY > machine_memory() / 2:
        raise error(
            f"{path}: {size / 2**20:,.0f} MiB of JSON would need more than half of this machine's memory; split it"
        )
    text = read_text(path, error, digest=digest)
    if not text.strip():
        raise error(f"{path}: the file is empty")
    options: dict[str, Any] = {} if nan else {"parse_constant": _refuse_constant}
    collecting = gc.isenabled()
    gc.disable()  # searching millions of new objects for cycles takes as long as parsing them
    try:
        data = json.loads(text, object_pairs_hook=_distinct, **options)
        if _HALF.search(text):
            json.dumps(data, ensure_ascii=False).encode()  # half of a character can be escaped, but not written again
        return data
    except json.JSONDecodeError as cause:
        raise error(f"{path}: not JSON ({cause})") from None
    except RecursionError:
        raise error(f"{path}: not readable as JSON, it is nested too deeply") from None
    except MemoryError:
        raise error(f"{path}: too large for the memory of this machine") from None
    except UnicodeEncodeError:
        raise error(f"{path}: not readable as JSON, it holds half of a character (\\ud800 to \\udfff alone)") from None
    except ValueError as cause:  # of the hooks, or a number of too many digits
        raise error(f"{path}: not readable as JSON ({cause})") from None
    finally:
        if collecting:
            gc.enable()


def read_yaml(path: str | Path, error: type[UserError]) -> Any:
    """Read a YAML file of plain values, see :mod:`mdf_detectron.guarded_yaml`.

    Raises:
        UserError: of the class ``error``: the file is absent, unreadable, no YAML, or refused there.
    """
    return parse_yaml(read_text(path, error), str(path), error)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        doubled = find_doubled(key for key, _ in pairs)[0]
        raise ValueError(f"the key {shorten(doubled)} appears twice in the object {shorten(found)}; remove one")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which JSON does not have; write null")


LONGEST_LINE = 1 << 20
"""Characters of a line of a CSV file; a gzipped file may unpack to a line of any length."""


def read_csv(
    path: str | Path, error: type[UserError], *, delimiter: str = ",", most: int | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where it begins, its values) for every row of a CSV file, the header first; skip empty lines.

    The file may be gzipped (``.gz``), with LF or CRLF, with or without a byte order mark. Values may span lines.

    Args:
        most: largest size of the unpacked file, in characters plus 20 a line; None: any.

    Raises:
        UserError: of the class ``error``: the file is absent, not regular, damaged, not UTF-8, or no CSV.
    """
    path = Path(path)
    check_regular(path, error)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(file, most), delimiter=delimiter)
            line = 1
            for row in reader:
                if row:
                    yield line, row
                line = reader.line_num + 1
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as cause:
        raise error(f"{path}: cannot be read as a CSV table ({cause}); download or save it again as UTF-8") from None


def _lines(file: IO[str], most: int | None) -> Iterator[str]:
    """Yield the lines of a file; raise ``csv.Error`` for a line that is too long, or too many of them."""
    left = math.inf if most is None else most
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line of more than {LONGEST_LINE:,} characters")
        left -= len(line) + 20
        if left < 0:
            raise csv.Error(f"it has more than about {most:,} characters, too many to hold in memory; split it")
        yield line


def markdown_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Format a GitHub-flavored Markdown table; bars and line ends in values are escaped."""
    lines = [_markdown_line(row) for row in (header, *rows)]
    return "\n".join([lines[0], _markdown_line(["---"] * len(header)), *lines[1:]]) + "\n"


def _markdown_line(row: Sequence[Any]) -> str:
    return "| " + " | ".join(" ".join(str(value).replace("|", "\\|").splitlines()) for value in row) + " |"


def csv_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Format a CSV table with LF."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
