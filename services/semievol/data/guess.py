"""What a file seems to be, from its name and its first rows: for commands that are given files without a run file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from semievol.algorithm.answers import canonical_answer
from semievol.algorithm.types import Row, Task, TaskType
from semievol.common import errors
from semievol.common.columns import NO_MAP
from semievol.common.errors import BadRow
from semievol.data.columns import ColumnReader
from semievol.data.formats import MAX_ROW_BYTES
from semievol.data.intake import DataSet, Role
from semievol.data.rows import BadRecordError, final_number, is_number
from semievol.data.sources import open_table, parse

PEEKED_ROWS = 200
_FEWEST_NUMBERS = 10  # different ones: fewer are rather the numbers of classes
_MOST_CLASSES = 26  # as many as a choice has options
_ROWS_PER_CLASS = 5  # and more: the answers are classes

_NAMES = (  # in the name of a file or of its split; the first that is there
    (Role.UNLABELED, re.compile(r"(?<![a-z])(unlabell?ed|unsupervised)(?![a-z])")),
    (Role.TEST, re.compile(r"(?<![a-z])test(?![a-z])")),
    (Role.DEV, re.compile(r"(?<![a-z])(dev|valid|validation)(?![a-z])")),
)


@dataclass(frozen=True, slots=True)
class Peek:
    """The first rows of a source: the `names` of its columns, the `columns` of ours that they give, the answers among them, and how many rows
    could be read."""

    names: tuple[str, ...] = ()
    columns: frozenset[str] = frozenset()
    answers: list[str] = field(default_factory=list)
    rows: int = 0


def peek(reference: str, names: Mapping[str, str] = NO_MAP) -> Peek:
    """A source that cannot be read gives nothing: `load` says what is wrong with it. Raises Unavailable, which is slow to find out."""
    reader, found, answers, rows = ColumnReader(names), dict[str, None](), [], 0
    columns = frozenset[str]()
    try:
        with open_table(reference, MAX_ROW_BYTES) as (_, table):
            found |= dict.fromkeys(table.columns or ())
            columns = reader.given(table.columns or ())
            for record in islice(table.records, PEEKED_ROWS):
                if isinstance(record, BadRow):
                    continue
                found |= dict.fromkeys(record.values)
                columns |= reader.given(record.values)
                try:
                    answer = reader.take(record.values).values.get("answer")
                except BadRecordError:
                    continue
                rows += 1
                if answer is not None and str(answer).strip():
                    answers.append(final_number(str(answer)))
    except errors.Unavailable:
        raise
    except errors.SemiEvolError:
        pass
    return Peek(tuple(found), columns, answers, rows)


def check_mapped(seen: Sequence[Peek], names: Mapping[str, str]) -> None:
    """Raises InvalidInput for a mapped column that none of the files has."""
    columns = list(dict.fromkeys(name for one in seen for name in one.names))
    reader = ColumnReader(names)
    for ours in reader.absent(columns) if columns else ():
        raise errors.InvalidInput(f"{reader.unmapped(ours, columns)[:1].upper()}{reader.unmapped(ours, columns)[1:]}.")


def role(reference: str, seen: Peek) -> tuple[Role, str]:
    """What a source is for, and why it is taken so."""
    source = parse(reference)
    name = f"{source.path.stem} {source.split}".lower()
    for found, pattern in _NAMES:
        match = pattern.search(name)
        if match and (found is Role.UNLABELED or seen.answers):
            return found, f"its name says {match[0]}"
    if "answer" not in seen.columns:
        return Role.UNLABELED, "it has no answers"
    return (Role.UNLABELED, "its answers are empty") if seen.rows and not seen.answers else (Role.LABELED, "it has answers")


def task_type(seen: Sequence[Peek]) -> tuple[TaskType, str]:
    """How answers are compared, and why."""
    if any("options" in one.columns for one in seen):
        return TaskType.CHOICE, "there are options"
    answers = [answer for one in seen for answer in one.answers]
    number = Task(TaskType.NUMBER)
    numbers = [
        found.value for answer in answers if is_number(answer) and (found := canonical_answer(answer, Row("", ""), number))
    ]
    if answers and len(numbers) == len(answers) and len(set(numbers)) > _FEWEST_NUMBERS:
        return TaskType.NUMBER, "all answers are numbers"
    return TaskType.TEXT, "there are no options"


def classes(datasets: Sequence[DataSet]) -> list[str]:
    """The answers, where free-text rows have so few different ones that they are classes; else nothing."""
    answers = [answer for data in datasets for answer in data.answers.values()]
    different = sorted(set(answers))
    few = 2 <= len(different) <= _MOST_CLASSES and _ROWS_PER_CLASS * len(different) <= len(answers)
    return different if few else []
