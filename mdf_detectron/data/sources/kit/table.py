"""Read tables of any file type and keep the line number of each row."""

from __future__ import annotations

import csv
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

    def place(self, number: int) -> str:
        return f"{self.path.name} line {self.lines[number]}"

    def require(self, columns: Sequence[str], option: str) -> None:
        absent = [c for c in columns if c not in self.columns]
        if absent:
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
) -> Table:
    """Read a CSV, TSV, XLSX or Parquet file; values of CSV and TSV stay text.

    Args:
        needed: required columns; if empty, all column names must be distinct.
        origin: where to get the file, for messages.
        only: keep only the needed columns in memory.
        may_be_empty: accept a table without rows.
    """
    path = Path(path)
    if origin and not path.is_file():
        raise SourceDataError(f"no {path}; it comes from {origin}")
    suffix = path.with_suffix("").suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if suffix in (".xlsx", ".xls", ".parquet", ".pq"):
        table = _read_frame(path, suffix)
    elif suffix in (".csv", ".tsv", ".txt", ".tab"):
        table = _read_text(path, problems, needed if only else ())
    else:
        raise SourceDataError(f"{path}: a table must be .csv, .tsv, .xlsx or .parquet; save it as one of them")
    names = Counter(table.columns)
    if needed:
        table.require(needed, f"of {origin}" if origin else "")
    elif "" in names or max(names.values()) > 1:
        wrong = "has no name" if "" in names else f"{names.most_common(1)[0][0]!r} occurs twice"
        raise SourceDataError(f"{path}: a column of the header {wrong}; name each column once")
    if not table.rows and not may_be_empty:
        raise SourceDataError(f"{path}: no rows below the header")
    return table


def find_file(root: Path, names: Sequence[str], origin: str) -> Path:
    """Return the first of ``names`` that exists below ``root``, plain or gzipped, or raise SourceDataError."""
    if not root.is_dir():
        raise SourceDataError(f"no folder {root}; --root is the folder of the downloaded files")
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise SourceDataError(f"no {root / names[0]}; it comes from {origin}")


def _read_text(path: Path, problems: ProblemList, only: Sequence[str]) -> Table:
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else _delimiter(path)
    rows = read_csv(path, SourceDataError, delimiter=delimiter, most=MOST_CHARACTERS)
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


def _delimiter(path: Path) -> str:
    """Return the delimiter that splits the header into the most columns."""
    if path.suffix.lower() == ".gz":
        return ","
    check_regular(path, SourceDataError)
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = (file.readline(LONGEST_LINE) for _ in range(1000))
            first = next((line for line in lines if line.strip()), "")
        return max(DELIMITERS, key=lambda d: len(next(csv.reader([first], delimiter=d), [])))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceDataError(f"{path}: cannot be read as a CSV table ({error}); save it again as UTF-8") from None


def _read_frame(path: Path, suffix: str) -> Table:
    size = check_regular(path, SourceDataError).st_size
    try:
        size = max(size, _unpacked(path, suffix))
    except Exception as error:  # engines raise errors of many types
        raise SourceDataError(f"{path}: cannot be read as a table ({short_text(error)}); save it again") from None
    if size > MOST_BYTES[suffix]:
        raise SourceDataError(
            f"{path}: {size / 2**20:,.0f} MiB unpacked are too many to hold in memory; save it as CSV, or in parts"
        )
    try:
        frame = pd.read_parquet(path) if suffix in (".parquet", ".pq") else pd.read_excel(path, dtype=object)
        cells = list(frame.itertuples(index=False, name=None))  # texts of a Parquet file are decoded here
    except ImportError as error:
        raise SourceDataError(f"{path}: {error}; run: pip install 'mdf_detectron[tables]'") from None
    except Exception as error:  # engines raise errors of many types
        raise SourceDataError(f"{path}: cannot be read as a table ({short_text(error)}); save it again") from None
    columns = [str(c).strip() for c in frame.columns]
    rows = [
        {c: (None if pd.api.types.is_scalar(v) and pd.isna(v) else v) for c, v in zip(columns, values, strict=True)}
        for values in cells
    ]
    kept = [i for i, row in enumerate(rows) if any(v is not None for v in row.values())]
    dropped = Counter({"empty row": len(rows) - len(kept)})
    return Table(path, columns, [rows[i] for i in kept], [i + 2 for i in kept], dropped)


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
