"""Readers of data files: a file becomes a table of records.

A reader holds one row in memory, never more than `max_row_bytes` of it, and goes on after a row that it cannot read. To add a
format, write a function like `_read_csv` and name it in `FORMATS`.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from semievol.common import errors
from semievol.common.errors import BadRow
from semievol.data import arrow
from semievol.data.tables import UNREADABLE, Record, Table, too_long

MAX_ROW_BYTES = 4 * 1024 * 1024  # some hundred pages of text: beyond any context window

_SIGNATURES = {  # the first bytes of what is often taken for text
    b"\xff\xfe": "in UTF-16 or UTF-32",
    b"\xfe\xff": "in UTF-16",
    b"\x00\x00\xfe\xff": "in UTF-32",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "a Parquet file under another name (.parquet is read)",
}


Reader = Callable[[Path, BinaryIO, int], Table]


def read_table(path: Path, file: BinaryIO, max_row_bytes: int) -> Table:
    """The table in an open file, by the file's suffix. Raises InvalidInput for what no row can be had from, StorageError."""
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        how = " (jq -c '.[]' FILE writes the objects of an array so)" if path.suffix.lower() == ".json" else ""
        raise errors.InvalidInput(
            f"{path}: files of type {path.suffix or '(none)'} cannot be read; use {', '.join(FORMATS)}{how}."
        )
    if path.suffix.lower() not in _BINARY:
        _check_encoding(path, file)
    return reader(path, file, max_row_bytes)


def _check_encoding(path: Path, file: BinaryIO) -> None:
    """Looks at the first bytes and leaves the file at its first character, after a byte order mark."""
    head = file.read(1024)
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature):
            raise _unreadable(path, f"the file is {what}; save it as plain text in UTF-8")
    if max(head[0::2].count(0), head[1::2].count(0)) > len(head) / 4:
        raise _unreadable(path, "the file is in UTF-16 or binary; save it as plain text in UTF-8")
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        if file.read(1):
            raise _unreadable(path, "the file begins with a thousand blank characters")
        raise _unreadable(path, "the file is empty")
    file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)


def _unreadable(path: Path, reason: str) -> errors.InvalidInput:
    bad = BadRow(str(path), 1, reason)
    return errors.InvalidInput(f"{bad}.", rows=(bad,))


def _check_distinct(path: Path, columns: tuple[str, ...], verb: str) -> None:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice and not twice[0]:
        raise _unreadable(
            path, f"{verb} {columns.count('')} columns without a name; name them, or take them out (commas at line ends?)"
        )
    if twice:
        raise _unreadable(path, f"{verb} column {twice[0]!r} twice")


def is_clean(text: str) -> bool:
    """Whether a text can be stored and shown: no NUL, no surrogate (which also stands for a byte that was no UTF-8)."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


# ---------------------------------------------------------------- lines


@dataclass(frozen=True, slots=True)
class _Line:
    """`text` ends with a line feed and keeps bytes that are no UTF-8 as surrogates; None: the line is too long to be read."""

    number: int
    text: str | None


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[_Line]:
    number = 0
    while data := file.readline(max_bytes + 1):
        number += 1
        if len(data) > max_bytes:
            while data and not data.endswith(b"\n"):
                data = file.readline(max_bytes)
            yield _Line(number, None)
        else:
            yield _Line(number, data.removesuffix(b"\n").removesuffix(b"\r").decode(errors="surrogateescape") + "\n")


# ---------------------------------------------------------------- JSON lines


def _read_jsonl(path: Path, file: BinaryIO, max_row_bytes: int) -> Table:
    return Table(None, _json_records(str(path), file, max_row_bytes))


def _json_records(name: str, file: BinaryIO, max_row_bytes: int) -> Iterator[Record | BadRow]:
    first = True
    for line in _lines(file, max_row_bytes):
        if first and line.text and line.text.strip():
            first = False
            if spread := _spread_over_lines(line.text.strip()):
                yield BadRow(name, line.number, spread)  # once for the file, not for each of its lines
                return
        if line.text is None:
            yield BadRow(name, line.number, too_long(max_row_bytes))
        elif line.text.strip():
            try:
                value = json.loads(line.text.strip(), object_pairs_hook=_object, parse_constant=_no_constant)
            except RecursionError:
                yield BadRow(name, line.number, "the JSON is nested too deeply")
            except ValueError as error:
                yield BadRow(name, line.number, f"not valid JSON: {_json_reason(error)}")
            else:
                if isinstance(value, dict) and value.keys() == {UNREADABLE}:
                    yield BadRow(name, line.number, str(value[UNREADABLE]))
                elif isinstance(value, dict):
                    yield Record(line.number, value)
                else:
                    yield BadRow(name, line.number, f"a JSON object is expected, this is {_json_type(value)}")


def _spread_over_lines(first: str) -> str:
    """Why a file with this first line is JSON but no JSON lines; empty for any other."""
    if first not in ("[", "{") and not (first.startswith("[") and first.endswith(",")):
        return ""
    what, how = ("an array", ".[]") if first.startswith("[") else ("an object", ".")
    return f"{what} goes on over several lines; one object a line is expected (jq -c '{how}' FILE writes them so)"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _json_reason(error: ValueError) -> str:
    return f"{error.msg.removesuffix(' at')} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


# ---------------------------------------------------------------- CSV


def _read_csv(path: Path, file: BinaryIO, max_row_bytes: int, separator: str = ",") -> Table:
    csv.field_size_limit(max(csv.field_size_limit(), max_row_bytes))  # the module's own, process-wide, is 128 KiB
    records = _csv_records(str(path), file, max_row_bytes, separator)
    header = next(records)
    if isinstance(header, BadRow):
        raise errors.InvalidInput(f"{header} (in the header).", rows=(header,))
    columns = tuple(cell.strip() for cell in header.cells)
    if not is_clean("".join(columns)):
        raise _unreadable(path, "the header has bytes that are no UTF-8 text; save the file in UTF-8")
    _check_distinct(path, columns, "the header names")
    return Table(columns, _named(str(path), columns, records))


def _named(name: str, columns: tuple[str, ...], records: Iterator[_CsvRecord | BadRow]) -> Iterator[Record | BadRow]:
    for record in records:
        if isinstance(record, BadRow):
            yield record
        elif len(record.cells) != len(columns):
            yield BadRow(name, record.line, f"the row has {len(record.cells)} cells, the header {len(columns)}")
        else:
            yield Record(record.line, dict(zip(columns, record.cells, strict=True)))


@dataclass(frozen=True, slots=True)
class _CsvRecord:
    line: int
    cells: list[str]


def _csv_records(name: str, file: BinaryIO, max_row_bytes: int, separator: str) -> Iterator[_CsvRecord | BadRow]:
    """Records in file order. After a record that is not well formed, reading goes on with the line after the one that it began on:
    a forgotten quote costs its own row, not the rest of the file."""
    source = _Rewindable(_lines(file, max_row_bytes), max_row_bytes)
    reader = csv.reader(source, strict=True, delimiter=separator)
    while True:
        source.mark()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLongError:
            yield BadRow(name, source.start, too_long(max_row_bytes) + ("; a quote may be missing" if source.rewind() else ""))
        except csv.Error as error:
            yield BadRow(name, source.start, f"not valid CSV: {_csv_reason(error)}")
            source.rewind()
        else:
            if len(cells) > 1 or any(cell.strip() for cell in cells):  # not a blank line
                yield _CsvRecord(source.start, cells)
            continue
        reader = csv.reader(source, strict=True, delimiter=separator)


def _csv_reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a quoted cell does not end"
    if "expected after" in text:
        return "text after a closing quote (a quote inside a cell is written twice)"
    if "new-line character" in text:
        return "a carriage return that does not end a line; save the file with LF or CRLF line ends"
    return text


class _TooLongError(Exception):
    """A line or a record passes the limit."""


class _Rewindable:
    """Feeds lines to a CSV reader and can take back all but the first of the present record's."""

    def __init__(self, lines: Iterator[_Line], max_bytes: int) -> None:
        self._lines = lines
        self._max_bytes = max_bytes
        self._ahead: list[_Line] = []  # taken back, next one last
        self._record: list[_Line] = []
        self._bytes = 0

    @property
    def start(self) -> int:
        """The line on which the present record begins."""
        return self._record[0].number

    def mark(self) -> None:
        """A new record begins."""
        self._record, self._bytes = [], 0

    def rewind(self) -> bool:
        """Takes back the record's lines after its first; whether there were any."""
        self._ahead.extend(reversed(self._record[1:]))
        return len(self._record) > 1

    def __iter__(self) -> _Rewindable:
        return self

    def __next__(self) -> str:
        line = self._ahead.pop() if self._ahead else next(self._lines)
        self._record.append(line)
        if line.text is None:
            raise _TooLongError
        self._bytes += len(line.text)
        if self._bytes > self._max_bytes:
            raise _TooLongError
        return line.text


# ---------------------------------------------------------------- Parquet


def _read_parquet(path: Path, file: BinaryIO, max_row_bytes: int) -> Table:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise errors.NotSupported("Parquet files are read by pyarrow: pip install 'semievol[data]'.") from error
    try:
        parquet = ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, f"the file is no Parquet file, or a damaged one ({errors.first_line(error)})") from error
    columns = tuple(parquet.schema_arrow.names)
    _check_distinct(path, columns, "the file has")
    batches = parquet.iter_batches(batch_size=arrow.BATCH_ROWS)
    return Table(columns, arrow.records(str(path), batches, arrow.class_names(parquet.schema_arrow.metadata), max_row_bytes))


FORMATS: dict[str, Reader] = {
    ".csv": _read_csv,
    ".tsv": functools.partial(_read_csv, separator="\t"),
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}
_BINARY = {".parquet"}
