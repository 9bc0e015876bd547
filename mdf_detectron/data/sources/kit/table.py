"""Read tables of any file type and keep the line number of each row."""

import csv
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.errors import SourceDataError, short_text
from mdf_detectron.fileio import LONGEST_LINE, check_regular, read_csv

MOST_CHARACTERS = 200_000_000
"""Most characters of an unpacked CSV file, each line counting 20 more; reading more takes too long."""

MOST_MEMORY = 800_000_000
"""Most bytes of a table's rows in memory."""

MOST_BYTES = {".xlsx": 64 << 20, ".xls": 64 << 20, ".parquet": 1 << 30, ".pq": 1 << 30}
"""Most bytes of other unpacked files: a sheet's XML takes many times that in memory, and a second per few MiB."""

DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?[,;|\t]*', re.IGNORECASE)

OTHER_LENGTH = "row of another length than the header"

Row = dict[str, Any]


@dataclass
class Table:
    """Rows of a table (column → raw value) and the unusable rows by reason.

    ``lines`` are the lines at which the rows begin, or their numbers in a sheet; the header is 1.
    """

    path: Path
    columns: list[str]
    rows: list[Row]
    lines: list[int]
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def place(self, number: int) -> str:
        return f"{self.path.name} line {self.lines[number]}"

    def require(self, columns: Sequence[str], option: str) -> None:
        if absent := [c for c in columns if c not in self.columns]:
            missing, known = ", ".join(map(repr, absent)), ", ".join(self.columns)
            option = f" ({option})" if option else ""
            raise SourceDataError(f"{self.path}: no column {missing}{option}; it has {known}")


def read_table(
    path: str | Path,
    problems: ProblemList,
    needed: Sequence[str] = (),
    *,
    origin: str = "",
    only: bool = False,
    may_be_empty: bool = False,
    encoding: str | None = None,
    sheet: str | None = None,
) -> Table:
    """Read a CSV, TSV, XLSX or Parquet file; values of CSV and TSV stay text. A column of row numbers without a name,
    as pandas writes it first, is left out.

    Args:
        needed: required columns; if empty, all column names must be distinct.
        origin: where to get the file, for messages.
        only: keep only the needed columns in memory.
        may_be_empty: accept a table without rows.
        encoding: of a CSV or TSV file that is not UTF-8.
        sheet: of a workbook; by default the only one with content, or the first one if columns are ``needed``.
    """
    path = Path(path)
    if origin and not path.is_file():
        raise SourceDataError(f"no {path}; it comes from {origin}")
    suffix = path.with_suffix("").suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if suffix in (".xlsx", ".xls", ".parquet", ".pq"):
        table = _read_frame(path, suffix, sheet, bool(needed))
    elif suffix in (".csv", ".tsv", ".txt", ".tab"):
        table = _read_text(path, problems, needed if only else (), "utf-8-sig" if needed else _encoding(path, encoding))
    else:
        raise SourceDataError(f"{path}: a table must be .csv, .tsv, .xlsx or .parquet; save it as one of them")
    if needed:
        table.require(needed, f"of {origin}" if origin else "")
    else:
        _check_header(table)
    if not table.rows and not may_be_empty:
        raise SourceDataError(f"{path}: no rows below the header")
    return table


def find_file(root: Path, names: Sequence[str], origin: str) -> Path:
    """Return the first of ``names`` that exists below ``root``, plain or gzipped, or raise SourceDataError."""
    if not root.is_dir():
        raise SourceDataError(f"no folder {root}; --root is the folder of the downloaded files")
    for path in (root / f"{name}{suffix}" for name in names for suffix in ("", ".gz")):
        if path.is_file():
            return path
    raise SourceDataError(f"no {root / names[0]}; it comes from {origin}")


def _check_header(table: Table) -> None:
    """Remove a first column of row numbers without a name; raise SourceDataError for other names than distinct ones."""
    names = Counter(table.columns)
    if names[""] == 1 and table.columns[0] == "" and all(str(row[""]).strip().isdigit() for row in table.rows):
        table.columns = table.columns[1:]
        for row in table.rows:
            del row[""]
    elif "" in names or max(names.values(), default=0) > 1:
        wrong = f"column {table.columns.index('') + 1} of the header has no name" if "" in names else (
            f"the column {names.most_common(1)[0][0]!r} is in the header twice")  # fmt: skip
        raise SourceDataError(f"{table.path}: {wrong}; name each column once")


def _encoding(path: Path, given: str | None) -> str:
    """Return UTF-8, or the ``given`` encoding of a file that is not UTF-8."""
    check_regular(path, SourceDataError)
    try:
        if path.suffix.lower() != ".gz":
            path.read_bytes().decode()
    except UnicodeDecodeError as error:
        if given:
            return given
        text = "save it again as UTF-8, or name the encoding of the clinical table, as --encoding cp1252"
        raise SourceDataError(f"{path}: not a text in UTF-8 (byte {error.start}); {text}") from None
    return "utf-8-sig"


def _read_text(path: Path, problems: ProblemList, only: Sequence[str], encoding: str) -> Table:
    delimiter = _delimiter(path, encoding)
    rows = read_csv(path, SourceDataError, delimiter=delimiter, most=MOST_CHARACTERS, encoding=encoding)
    _, header = next(rows, (1, []))
    if _SEPARATOR_LINE.fullmatch(delimiter.join(header).rstrip(delimiter) + delimiter):
        _, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    while header and header[-1] == "":  # every line ends with a delimiter
        header.pop()
    if not header:
        raise SourceDataError(f"{path}: the file is empty")
    table = Table(path, header, [], [])
    if not set(only) <= set(header):
        return table  # the caller reports missing columns
    kept = [(name, header.index(name)) for name in only]
    held = 0
    for line, values in rows:
        if len(values) > len(header) and not any(v.strip() for v in values[len(header) :]):
            values = values[: len(header)]
        if not any(v.strip() for v in values):
            table.dropped["empty row"] += 1
        elif len(values) != len(header):
            text = f"{len(values)} values, the header has {len(header)}; a row is cut off, or a delimiter has no quotes"
            problems.add(OTHER_LENGTH, f"{path} line {line}: {text}")
            table.dropped[OTHER_LENGTH] += 1
        else:
            row = {name: values[at] for name, at in kept} if only else dict(zip(header, values, strict=True))
            held += 250 + 60 * len(row) + sum(map(len, row.values()))
            if held > MOST_MEMORY:
                raise SourceDataError(f"{path}: too large to hold in memory, from line {line} on; split it")
            table.rows.append(row)
            table.lines.append(line)
    return table


def _delimiter(path: Path, encoding: str) -> str:
    """Return the delimiter that the line "sep=;" names, as Excel writes it, or that makes the most columns."""
    if path.suffix.lower() == ".gz":
        return ","
    check_regular(path, SourceDataError)
    try:
        with open(path, encoding=encoding) as file:
            lines = (file.readline(LONGEST_LINE) for _ in range(1000))
            first = next((line for line in lines if line.strip()), "")
        if named := _SEPARATOR_LINE.fullmatch(first.rstrip("\r\n")):
            return named[1]
        if path.suffix.lower() in (".tsv", ".tab"):
            return "\t"
        return max(DELIMITERS, key=lambda d: len(next(csv.reader([first], delimiter=d), [])))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceDataError(f"{path}: cannot be read as a CSV table ({error}); save it again as UTF-8") from None


def _read_frame(path: Path, suffix: str, sheet: str | None, first: bool) -> Table:
    size = check_regular(path, SourceDataError).st_size
    try:
        size = max(size, _unpacked(path, suffix))
        if size > MOST_BYTES[suffix]:
            text = f"{size / 2**20:,.0f} MiB unpacked are too many to hold in memory; save it as CSV, or in parts"
            raise SourceDataError(f"{path}: {text}")
        if suffix in (".parquet", ".pq"):
            name, frame = sheet, pd.read_parquet(path)
            cells = [tuple(frame.columns), *frame.itertuples(index=False, name=None)]  # its texts are decoded here
        else:
            name, cells = _read_workbook(path, suffix, sheet, first)
    except SourceDataError:
        raise
    except ImportError as error:
        raise SourceDataError(f"{path}: {error}; run: pip install 'mdf_detectron[tables]'") from None
    except Exception as error:  # engines raise errors of many types
        raise SourceDataError(f"{path}: cannot be read as a table ({short_text(error)}); save it again") from None
    cells = [tuple(None if pd.api.types.is_scalar(v) and pd.isna(v) else v for v in row) for row in cells]
    used = [at for at, values in enumerate(zip(*cells, strict=True)) if any(v is not None for v in values)]
    columns = ["" if cells[0][at] is None else str(cells[0][at]).strip() for at in used]
    rows = [dict(zip(columns, (row[at] for at in used), strict=True)) for row in cells[1:]]
    kept = [i for i, row in enumerate(rows) if any(v is not None for v in row.values())]
    dropped = Counter({"empty row": len(rows) - len(kept)})
    notes = [f"{path.name}: no sheet {sheet}; its only one, {name}, is read."] * bool(sheet and name != sheet)
    return Table(path, columns, [rows[i] for i in kept], [i + 2 for i in kept], dropped, notes)


def _read_workbook(path: Path, suffix: str, sheet: str | None, first: bool) -> tuple[str, list[tuple]]:
    """Return a sheet's name, and its rows, the header first."""
    with pd.ExcelFile(path) as book:
        names = book.sheet_names[:1] if first else book.sheet_names
        as_written = {"header": None, "dtype": object, "keep_default_na": False, "na_values": [""]}
        frames = {str(name): pd.read_excel(book, name, **as_written) for name in names}
    filled = [name for name, frame in frames.items() if not frame.empty]
    if sheet not in frames and len(filled) > 1:
        raise SourceDataError(f"{path}: which sheet of {', '.join(frames)}? Save it as a .csv, or name it with --sheet")
    name = sheet if sheet in frames else [*filled, *frames][0]
    if suffix == ".xlsx":
        _check_formulas(path, name, frames[name])
    return name, list(frames[name].itertuples(index=False, name=None))


def _check_formulas(path: Path, sheet: str, frame: pd.DataFrame) -> None:
    """Raise SourceDataError if the sheet has formulas and none has a result, as programs write them."""
    from openpyxl import load_workbook

    with zipfile.ZipFile(path) as archive:
        sheets = [archive.read(name) for name in archive.namelist() if name.startswith("xl/worksheets/sheet")]
    if not any(b"<f>" in content or b"<f " in content for content in sheets):
        return
    cells = [c for row in load_workbook(path, read_only=True)[sheet].iter_rows(max_row=len(frame)) for c in row]
    found = [c for c in cells if str(c.value).startswith("=")]
    if found and all(c.column > frame.shape[1] or pd.isna(frame.iat[c.row - 1, c.column - 1]) for c in found):
        text = f"{len(found)} formulas without a result, the first in {found[0].coordinate}: no program has calculated"
        raise SourceDataError(f"{path}: {text} them; open the file in a spreadsheet program and save it")


def _unpacked(path: Path, suffix: str) -> int:
    """Return the unpacked size in bytes that a workbook or Parquet file declares."""
    if suffix == ".xlsx":
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    if suffix in (".parquet", ".pq"):
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            metadata = file.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            # repeated values take no bytes in the file, but do in memory
            return max(sum(g.total_byte_size for g in groups), 64 * metadata.num_rows * metadata.num_columns)
    return 0
