"""Arrow batches -> records: Parquet files and saved datasets alike."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from semievol.common import errors
from semievol.common.errors import BadRow
from semievol.data.tables import Record, too_long

BATCH_ROWS = 1024  # decoded together

Classes = Mapping[str, Sequence[str]]  # column of class labels -> their names by number, from 0


def records(name: str, batches: Iterator[Any], classes: Classes, max_row_bytes: int) -> Iterator[Record | BadRow]:
    """`line` is the row's number. What is damaged ends the reading with a bad row."""
    number = 0
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            batch.validate(full=True)  # bytes that are not what they say must not be followed
            rows = batch.to_pylist()
        except Exception as error:  # pyarrow's own, and whatever a library between us and it raises
            yield BadRow(name, number + 1, f"the file is damaged from here on ({errors.first_line(error)})")
            return
        for values in rows:
            number += 1
            if sum(map(_size, values.values())) > max_row_bytes:
                yield BadRow(name, number, too_long(max_row_bytes))
            else:
                cells = {column: _plain(cell) for column, cell in values.items()}
                yield Record(number, with_class_names(cells, classes))


def class_names(metadata: Mapping[bytes, bytes] | None) -> Classes:
    """The class labels that the `datasets` library notes in a schema. Their numbers count from 0, where ours count from 1."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        found = {
            name: one["names"] for name, one in features.items() if isinstance(one, dict) and one.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {name: tuple(map(str, names)) for name, names in found.items() if isinstance(names, list)}


def with_class_names(values: dict[str, Any], classes: Classes) -> dict[str, Any]:
    """The record with names for the numbers of class labels; -1 stands for none."""
    for column, names in classes.items():
        value = values.get(column)
        if isinstance(value, str) and value not in names and value.lstrip("-").isdigit():  # of a CSV file
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            values[column] = names[value] if 0 <= value < len(names) else None
    return values


def _size(value: Any) -> int:
    """About the bytes of a cell's texts, however deep they lie."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


def _plain(value: Any) -> Any:
    """A cell as JSON would have it: missing numbers are null, dates and decimals are texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
