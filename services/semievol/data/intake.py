"""A data file (or a dataset: sources.py) -> a DataSet: rows in file order with stable ids, and what was found on the way.

Ids: the `id` column, or else a content id (question and options), so that adding rows or shuffling them changes no other row's
id; the second row with the same content gets `-2` after it, the third `-3`, in file order. An id that was seen before is a bad row.

Answers of an unlabeled file are for reports only: they come in `DataSet.answers`, never in a Row, and one that is wrong or empty
makes no bad row, since they may change nothing else (METHOD, trap 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

from semievol.algorithm.types import Row, Task
from semievol.common import errors
from semievol.common.columns import NO_MAP, check_map
from semievol.common.errors import BadRow
from semievol.data.columns import ColumnReader
from semievol.data.formats import MAX_ROW_BYTES
from semievol.data.rows import BadRecordError, Parsed, content_id, parse_row, required
from semievol.data.sources import open_table
from semievol.data.tables import Record, Table

MAX_BAD_ROWS = 10_000  # after so many, reading stops: the file is not what the user thinks it is
MAX_BAD_SHARE = 0.1  # of all rows; more is no longer a few bad rows
SHOWN = 5  # bad rows in a message


class Role(StrEnum):
    """What a file's rows are for."""

    LABELED = "labeled"
    UNLABELED = "unlabeled"
    TEST = "test"
    DEV = "dev"


# Of a dataset with several splits, which one is meant where none is named; the first that there is.
OBVIOUS_SPLITS = {
    Role.LABELED: ("labeled", "train"),
    Role.UNLABELED: ("unlabeled", "unsupervised"),
    Role.TEST: ("test",),
    Role.DEV: ("dev", "validation"),
}


@dataclass
class DataSet:
    """`rows` in file order; `lines` maps a row's id to the line where it begins; `answers` maps ids to answers in the form of Row.answer.

    `columns`: what each column was taken for: one of ours, or `metadata`.
    `duplicates`: rows whose question and options occurred before in this file. `ignored_answers`: unusable ones of an unlabeled file.
    """

    file: str
    role: Role
    format: str
    rows: tuple[Row, ...] = ()
    answers: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    bad: tuple[BadRow, ...] = ()
    duplicates: int = 0
    ignored_answers: int = 0


def load(
    source: str | Path,
    task: Task,
    role: Role,
    *,
    names: Mapping[str, str] = NO_MAP,
    on_bad: Literal["fail", "quarantine"] = "fail",
    max_bad_share: float = MAX_BAD_SHARE,
    max_row_bytes: int = MAX_ROW_BYTES,
) -> DataSet:
    """Reads all rows of a file, a dataset directory or a hub dataset (sources.py). `names`: the map (columns.py). `on_bad`: one bad row
    refuses the source, or bad rows are left out as long as they are at most `max_bad_share` of all.

    Answers that seem to count options from 0 always refuse a source that needs them: each would be taken for its neighbour.

    Raises NotFound, StorageError, Unavailable, NotSupported, InvalidInput (field `data.<role>`, `rows` has every bad row).
    """
    where = f"data.{role}"
    try:
        check_map(names)
        with open_table(str(source), max_row_bytes, OBVIOUS_SPLITS[role]) as (format, table):
            intake = _Intake(str(source), task, role, format, names)
            intake.take(table)
    except errors.InvalidInput as error:
        raise errors.InvalidInput(error.message, field=where, rows=error.rows) from error
    except errors.SemiEvolError as error:
        error.field = where
        raise
    data = intake.result()
    from_zero = intake.from_zero and role is not Role.UNLABELED
    if data.bad and (on_bad == "fail" or from_zero or not few_bad(data, max_bad_share)):
        end = ""
        if from_zero:
            end = "; all of its answers seem to count the options from 0"
        elif on_bad == "quarantine":
            end = f"; at most {max_bad_share:.0%} may be left out"
        raise errors.InvalidInput(_message(data, end), field=where, rows=data.bad)
    if not data.rows:
        raise errors.InvalidInput(f"{source} has no rows.", field=where)
    return data


def few_bad(data: DataSet, max_bad_share: float = MAX_BAD_SHARE) -> bool:
    """Whether so few of its rows are bad that they may be left out."""
    return len(data.bad) <= max_bad_share * (len(data.rows) + len(data.bad))


def _message(data: DataSet, end: str) -> str:
    shown = "\n".join(f"  {bad}" for bad in data.bad[:SHOWN])
    more = f"\n  ... and {len(data.bad) - SHOWN} more" if len(data.bad) > SHOWN else ""
    return f"{len(data.bad)} of {len(data.rows) + len(data.bad)} rows of {data.file} cannot be used{end}:\n{shown}{more}"


class _Intake:
    """Takes records one by one and keeps count. `from_zero`: an answer was 0, where options count from 1."""

    def __init__(self, file: str, task: Task, role: Role, format: str, names: Mapping[str, str]) -> None:
        self._task = task
        self._labeled = role is not Role.UNLABELED
        self._required = required(task, self._labeled)
        self._reader = ColumnReader(names)
        self._data = DataSet(file, role, format)
        self._rows: list[Row] = []
        self._bad: list[BadRow] = []
        self._contents: dict[str, int] = {}  # content id -> how often
        self._columns: dict[str, str] = {}
        self._names: tuple[str, ...] | None = None  # columns of the last row
        self._lacking: str | None = None  # why they do not do
        self._used: tuple[str, ...] | None = None  # columns of the last good row
        self.from_zero = False

    def take(self, table: Table) -> None:
        """Raises InvalidInput where the source as a whole is unusable."""
        if table.columns is not None:
            self._columns |= self._reader.uses(table.columns)
            lacking = self._reader.lacking(self._required, table.columns)
            if lacking:
                raise self._unusable(_other_separator(table.columns) or lacking)
            self._check_mapped(table.columns)
        for record in table.records:
            if isinstance(record, BadRow):
                self._bad.append(record)
            else:
                self._take(record)
            if len(self._bad) >= MAX_BAD_ROWS:
                shown = "\n".join(f"  {bad}" for bad in self._bad[:SHOWN])
                message = (
                    f"{self._data.file} has {MAX_BAD_ROWS} bad rows up to line {self._bad[-1].line}; the first ones:\n{shown}"
                )
                raise errors.InvalidInput(message, rows=tuple(self._bad))
        if self._columns:
            self._check_mapped(self._columns)

    def _check_mapped(self, columns: Iterable[str]) -> None:
        """A mapped column that no row has is a misspelt one; but an unlabeled file needs no answers."""
        absent = [ours for ours in self._reader.absent(columns) if ours != "answer" or self._labeled]
        if absent:
            raise self._unusable(self._reader.unmapped(absent[0], columns))

    def _unusable(self, reason: str) -> errors.InvalidInput:
        bad = BadRow(self._data.file, 1, reason)
        return errors.InvalidInput(f"{bad}.", rows=(bad,))

    def _take(self, record: Record) -> None:
        try:
            names = tuple(record.values)
            if names != self._names:  # mostly they are the same as in the row before
                self._names, self._lacking = names, self._reader.lacking(self._required, names)
            if self._lacking:
                raise BadRecordError(self._lacking)
            parsed = parse_row(self._reader.take(record.values), self._task)
            self.from_zero = self.from_zero or parsed.from_zero
            if self._labeled and parsed.answer is None:
                raise BadRecordError(parsed.answer_fault or "the answer is empty")
            row = self._identified(parsed)
        except BadRecordError as fault:
            self._bad.append(BadRow(self._data.file, record.line, str(fault)))
            return
        if names != self._used:
            self._used = names
            for name, use in self._reader.uses(names).items():
                self._columns.setdefault(name, use)
        self._rows.append(row)
        self._data.lines[row.id] = record.line
        self._data.ignored_answers += bool(parsed.answer_fault)
        if parsed.answer is not None:
            self._data.answers[row.id] = parsed.answer

    def _identified(self, parsed: Parsed) -> Row:
        row = parsed.row
        content = content_id(row)
        answer = parsed.answer if self._labeled else None
        if row.id and row.id in self._data.lines:
            raise BadRecordError(f"the id {row.id!r} is that of line {self._data.lines[row.id]}")
        times = self._contents.get(content, 0) + 1
        if not row.id:
            suffix = times
            name = content if suffix == 1 else f"{content}-{suffix}"
            while name in self._data.lines:  # taken by an explicit id
                suffix += 1
                name = f"{content}-{suffix}"
            row = replace(row, id=name)
        self._contents[content] = times
        self._data.duplicates += times > 1
        return replace(row, answer=answer)

    def result(self) -> DataSet:
        if self.from_zero and not self._labeled:  # the report would compare with each one's neighbour
            self._data.ignored_answers += len(self._data.answers)
            self._data.answers = {}
        return replace(self._data, rows=tuple(self._rows), bad=tuple(self._bad), columns=self._columns)


def _other_separator(columns: tuple[str, ...]) -> str:
    """Why one column is all there is, where it seems to be several; else nothing."""
    found = next((separator for separator in (";", "\t", "|") if separator in columns[0]), None) if len(columns) == 1 else None
    return f"the whole header is one cell; the cells seem to be separated by {found!r}, a comma is expected" if found else ""
