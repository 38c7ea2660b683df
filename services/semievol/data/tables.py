"""What every reader gives: records, each with the physical line on which it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from semievol.common.errors import BadRow

# The only key of a JSON line that stands for a row of a dataset that could not be read; its value says why.
UNREADABLE = "semievol:unreadable"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as its source has it. `line` counts from 1 (in Parquet and in directories, rows); a cell is a string in CSV and any JSON
    value elsewhere."""

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` is None where a format names none before its rows (JSONL). `records` can be gone through once."""

    columns: tuple[str, ...] | None
    records: Iterator[Record | BadRow]


def too_long(max_bytes: int) -> str:
    return f"the row is longer than {max_bytes} bytes"
