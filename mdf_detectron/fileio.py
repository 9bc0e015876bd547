"""Find, read and write files: atomic writers, readers for JSON, YAML and CSV, and table formatters.

A reader raises ``error``, the class that it is given, with one line that names the file: for a file that is missing,
not regular, unreadable, or not of its format. Writers raise ``UserError`` for a file that cannot be written.
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
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate

from mdf_detectron.errors import ConfigError, UserError, find_doubled, short_text, shorten
from mdf_detectron.guarded_yaml import parse_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTIAL_SUFFIX = ".partial"
"""Suffix of files and folders that are being written; killed runs leave them over."""


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Raise the ``OSError`` of a block that writes to ``path`` as a ``UserError`` of one line."""
    try:
        yield
    except OSError as cause:
        if isinstance(cause, UserError):  # an ImageReadError is the block's own
            raise
        raise UserError(f"{path}: cannot be written ({cause.strerror or cause})") from None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is created; move it to ``path`` if the block succeeds.

    The content is flushed to disk before the move: after a crash the file is new, old or absent, never half-written.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    with write_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _flush(partial)
            os.replace(partial, path)
            if os.name == "posix":
                _flush(path.parent)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


@contextmanager
def for_owner_only() -> Iterator[None]:
    """Let only their owner read the files and folders that a block makes, the workers that it starts included."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partial_files(*folders: str | Path, of: str = "*") -> None:
    """Remove partial files of the pattern ``of`` directly in the folders; the caller holds their lock."""
    for folder in map(Path, folders):
        for leftover in list(folder.glob(f"{of}.[0-9]*{PARTIAL_SUFFIX}")):
            leftover.unlink()


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file atomically; return its path."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically; refuse unpaired surrogates, which arguments that are not UTF-8 contain."""
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
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def write_json(path: str | Path, data: Any, indent: int | None = 2) -> Path:
    """Write JSON atomically; NaN and infinities become ``null``."""
    return write_text(path, json.dumps(finite_or_none(data), indent=indent, allow_nan=False, ensure_ascii=False) + "\n")


def finite_or_none(data: Any) -> Any:
    """Copy nested data, replacing every float that is not finite by None."""
    if isinstance(data, dict):
        return {key: finite_or_none(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite_or_none(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def sha256_of(file: str | Path | IO[bytes]) -> str:
    """Compute the SHA-256 of a file; an open file is read from its current position."""
    if isinstance(file, (str, Path)):
        with open(file, "rb") as opened:
            return sha256_of(opened)
    sha = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        sha.update(block)
    return sha.hexdigest()


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def check_regular(path: str | Path, error: type[UserError]) -> os.stat_result:
    """Check that a path is a regular file, because opening a pipe would wait forever for a writer; return its stat."""
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
    """Return this machine's memory in bytes; 8 GiB if it is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 8 << 30


def shorten_path(path: str | Path, longest: int = 200) -> str:
    """Return the last ``longest`` characters of a path, on one line."""
    text = " ".join(str(path).split())
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


CONFIGS = Path(__file__).resolve().parent / "configs"
"""Folder of the configs that ship with the package."""


def find_config_file(name: str | Path) -> Path:
    """Find a config file by its path or its name in the package ("mimic_eye/mdf_net.yaml"), else ``ConfigError``."""
    for path in (Path(name), CONFIGS / name, CONFIGS / str(name).removeprefix("configs/")):
        if os.path.isfile(path):
            return path
    near = get_close_matches(Path(name).stem, {path.stem for path in CONFIGS.glob("*/*.yaml")}, n=3)
    raise ConfigError(
        f"no config file at '{shorten_path(name)}'; give a path, or a name of the model zoo such as "
        "'mimic_eye/mdf_net.yaml'" + (f" (names near it: {', '.join(near)})" if near else "")
    )


def file_stamp(path: str | Path) -> tuple[int, int, int] | None:
    """Return size, modification time (ns) and inode, which change when a file does; None if it is absent."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def read_text(path: str | Path, error: type[UserError], *, digest: hashlib._Hash | None = None) -> str:
    """Read a UTF-8 text file, with or without a byte order mark; update ``digest`` with its content."""
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
_JSON_MEMORY, _XML_MEMORY = 10, 30
"""Bytes of memory per byte of JSON, measured on boxes, and most per byte of XML."""


def read_json(
    path: str | Path, error: type[UserError], *, nan: bool = False, digest: hashlib._Hash | None = None
) -> Any:
    """Read a JSON file; also refuse one that is empty, nested too deeply, or has a key twice in one object.

    Args:
        nan: accept NaN, Infinity and -Infinity, which are not JSON but written by pandas; the caller reports them.
        digest: as for :func:`read_text`.
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
    gc.disable()  # searching millions of new objects for cycles would double the time
    try:
        data = json.loads(text, object_pairs_hook=_distinct, **options)
        if _HALF.search(text):
            json.dumps(data, ensure_ascii=False).encode()  # an unpaired surrogate can be read but not written
        return data
    except json.JSONDecodeError as cause:
        raise error(f"{path}: not JSON ({cause})") from None
    except RecursionError:
        raise error(f"{path}: not readable as JSON, it is nested too deeply") from None
    except MemoryError:
        raise error(f"{path}: too large for the memory of this machine") from None
    except UnicodeEncodeError:
        raise error(f"{path}: not readable as JSON, it holds half of a character (\\ud800 to \\udfff alone)") from None
    except ValueError as cause:  # from the hooks, or a number with too many digits
        raise error(f"{path}: not readable as JSON ({cause})") from None
    finally:
        if collecting:
            gc.enable()


def read_yaml(path: str | Path, error: type[UserError]) -> Any:
    """Read a YAML file of plain values within the limits of :mod:`mdf_detectron.guarded_yaml`."""
    return parse_yaml(read_text(path, error), str(path), error)


def read_xml(path: str | Path, error: type[UserError]) -> Element:
    """Read the root of an XML file in any encoding; refuse document types, whose entities unpack to any size."""
    if check_regular(path, error).st_size * _XML_MEMORY > machine_memory() / 2:
        raise error(f"{path}: more XML than half of this machine's memory could hold; split it")
    builder, parser = TreeBuilder(), ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, _refuse_document_type
    try:
        parser.Parse(Path(path).read_bytes(), True)
        return builder.close()
    except (OSError, ExpatError, ValueError, LookupError, MemoryError) as cause:
        raise error(f"{path}: not readable as XML ({short_text(cause)})") from None


def _refuse_document_type(*declared: Any) -> None:
    raise ValueError("it declares a document type, whose entities may unpack to any size; remove the DOCTYPE")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        doubled = find_doubled(key for key, _ in pairs)[0]
        raise ValueError(f"the key {shorten(doubled)} appears twice in the object {shorten(found)}; remove one")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which JSON does not have; write null")


_UTF_8 = "utf-8-sig"  # with or without a byte order mark
LONGEST_LINE = 1 << 20
"""Maximum number of characters in a line of a CSV file; a gzipped file can unpack to a line of any length."""


def read_csv(
    path: str | Path, error: type[UserError], *, delimiter: str = ",", most: int | None = None, encoding: str = _UTF_8
) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line number, values) of each row of a UTF-8 CSV file, header first; skip empty lines.

    The file may be gzipped (``.gz``), with LF or CRLF, with or without a byte order mark. Values may span lines.

    Args:
        most: maximum size of the unpacked file, in characters plus 20 per line; None for any.
    """
    path = Path(path)
    check_regular(path, error)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding=encoding, newline="") as file:
            reader = csv.reader(_lines(file, most), delimiter=delimiter)
            line = 1
            for row in reader:
                if row:
                    yield line, row
                line = reader.line_num + 1
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as cause:
        raise error(f"{path}: cannot be read as a CSV table ({cause}); download or save it again as UTF-8") from None


def _lines(file: IO[str], most: int | None) -> Iterator[str]:
    """Yield the lines of a file; raise ``csv.Error`` for too long a line or too large a file."""
    left = math.inf if most is None else most
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line of more than {LONGEST_LINE:,} characters")
        left -= len(line) + 20
        if left < 0:
            raise csv.Error(f"it has more than about {most:,} characters, too many to hold in memory; split it")
        yield line


def markdown_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Format a GitHub-flavored Markdown table; escape bars and line ends in values."""
    lines = [_markdown_line(row) for row in (header, *rows)]
    return "\n".join([lines[0], _markdown_line(["---"] * len(header)), *lines[1:]]) + "\n"


def _markdown_line(row: Sequence[Any]) -> str:
    return "| " + " | ".join(" ".join(str(value).replace("|", "\\|").splitlines()) for value in row) + " |"


def csv_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Format a CSV table with LF line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
