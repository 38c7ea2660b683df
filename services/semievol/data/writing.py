"""Records -> a file, by its ending: all of it or nothing. Records come one by one, so that a file may be larger than memory."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol.algorithm.types import Row
from semievol.common import errors
from semievol.data.intake import DataSet

_PARQUET_ROWS = 4096  # in one row group
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)

Record = Mapping[str, Any]
Writer = Callable[[Path, Iterable[Record], Sequence[str], Any], int]


def check_ending(path: Path, endings: Iterable[str] = ()) -> None:
    """Raises InvalidInput for a file that `write` has no format for."""
    allowed = tuple(endings) or tuple(WRITERS)
    if path.suffix.lower() not in allowed:
        raise errors.InvalidInput(f"{path}: files of type {path.suffix or '(none)'} cannot be written; use {', '.join(allowed)}.")


def write(
    path: Path, records: Iterable[Record], columns: Sequence[str], schema: Any = None, *, replace: bool = False, format: str = ""
) -> int:
    """How many records were written. `columns`: of CSV; of Parquet too, where there is no pyarrow `schema`. `format`: an ending of
    WRITERS; by default the file's own.

    Raises InvalidInput (the ending), AlreadyExists (without `replace`), StorageError, NotSupported (no pyarrow), and what `records` raises.
    """
    if not format:
        check_ending(path)
    if path.exists() and not replace:
        raise errors.AlreadyExists(f"There is a file {path} already; add --yes to replace it, or give another name.")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:32]}-", dir=path.parent) as scratch:
            made = Path(scratch, "file")
            count = WRITERS[format or path.suffix.lower()](made, records, columns, schema)
            with made.open("rb") as file:
                os.fsync(file.fileno())
            _put(made, path, replace=replace)
    except FileExistsError as error:
        raise errors.AlreadyExists(f"There is a file {path} already; add --yes to replace it, or give another name.") from error
    except OSError as error:
        raise errors.StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
    return count


def _put(made: Path, path: Path, *, replace: bool) -> None:
    """A link is never made over a file that came meanwhile, which a rename would replace; but not every file system has links."""
    if not replace:
        try:
            os.link(made, path)
            return
        except OSError as error:
            if path.exists() or error.errno not in _NO_LINKS:
                raise
    made.replace(path)


def rows_as_records(data: DataSet) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """(columns, a record per row) in our columns, then the metadata; a metadata column that has one of our names gets `file_` before it."""
    rows = data.rows
    ours = ["id", "question"]
    ours += ["options"] if any(row.options for row in rows) else []
    ours += ["answer"] if data.answers else []
    ours += ["category"] if any(row.category for row in rows) else []
    names: dict[str, str] = {}
    for name in dict.fromkeys(name for row in rows for name in row.metadata):
        shown = name
        while shown in ours or shown in names.values() or shown in ("options", "answer", "category"):
            shown = f"file_{shown}"
        names[name] = shown
    return [*ours, *names.values()], (_record(row, data, ours, names) for row in rows)


def _record(row: Row, data: DataSet, ours: Sequence[str], names: Mapping[str, str]) -> dict[str, Any]:
    values = {
        "id": row.id,
        "question": row.question,
        "options": list(row.options),
        "answer": data.answers.get(row.id),
        "category": row.category,
    }
    return {name: values[name] for name in ours} | {shown: row.metadata.get(name, "") for name, shown in names.items()}


def _write_jsonl(path: Path, records: Iterable[Record], columns: Sequence[str], schema: Any) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for count, record in enumerate(records, 1):  # noqa: B007 - the count is the result
            file.write(json.dumps(dict(record), ensure_ascii=False, allow_nan=False) + "\n")
    return count


def _write_csv(path: Path, records: Iterable[Record], columns: Sequence[str], schema: Any) -> int:
    """Lists are JSON in their cell."""
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for count, record in enumerate(records, 1):  # noqa: B007 - the count is the result
            writer.writerow([_cell(record[column]) for column in columns])
    return count


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_parquet(path: Path, records: Iterable[Record], columns: Sequence[str], schema: Any) -> int:
    """Without a schema every column is text, but for `options`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise errors.NotSupported("Parquet files are written by pyarrow: pip install 'semievol[data]'.") from error
    if schema is None:
        texts = pyarrow.list_(pyarrow.string())
        schema = pyarrow.schema([(name, texts if name == "options" else pyarrow.string()) for name in columns])
    count, rest = 0, iter(records)
    with parquet.ParquetWriter(path, schema) as writer:
        while page := [dict(record) for record in itertools.islice(rest, _PARQUET_ROWS)]:
            writer.write_table(pyarrow.Table.from_pylist(page, schema=schema))
            count += len(page)
    return count


WRITERS: dict[str, Writer] = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
