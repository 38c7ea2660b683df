"""Rows that occur in more than one place: a test row that is also trained on makes every accuracy a lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

from semievol.algorithm.folding import fold
from semievol.algorithm.types import Row
from semievol.common import errors
from semievol.data.intake import DataSet, Role
from semievol.data.rows import content_id

EXAMPLES = 3
_HELD_OUT = (Role.TEST, Role.DEV)


@dataclass(frozen=True, slots=True)
class Overlap:
    """`count` rows of `second` occur in `first` too (or earlier in it, where both are the same).

    Rows are compared by question and options after case, white space and outer punctuation are folded. `examples` are pairs of
    places, `file:line = file:line`. `warning`: held-out rows that are also trained on or answered.
    """

    first: Role
    second: Role
    count: int
    examples: tuple[str, ...]
    warning: bool

    def __str__(self) -> str:
        where = f"more than once in {self.first}" if self.first == self.second else f"in {self.first} and in {self.second}"
        return f"{self.count} rows occur {where}: {', '.join(self.examples)}"


def overlaps(datasets: Sequence[DataSet]) -> list[Overlap]:
    """Duplicates within and between the data sets of a run, in their order; nothing where there are none."""
    found = [_within(data) for data in datasets]
    found += [_between(first, second) for first, second in combinations(datasets, 2)]
    return [overlap for overlap in found if overlap.count]


def check_ids(datasets: Sequence[DataSet]) -> None:
    """Raises InvalidInput where one id names different rows: in a run, rows of all files meet, and an id must mean one row."""
    seen: dict[str, tuple[int, bytes]] = {}
    for number, data in enumerate(datasets):
        for row in data.rows:
            content = folded(row)
            earlier, known = seen.setdefault(row.id, (number, content))
            if content != known:
                first = datasets[earlier]
                message = f"The id {row.id!r} names different rows: {place(first, row.id)} and {place(data, row.id)}."
                raise errors.InvalidInput(f"{message} Ids must differ between the files of a run.", field=f"data.{data.role}")


def contents(rows: Iterable[Row]) -> dict[str, str]:
    """The id of each row -> its content's id, which is what `new_rows` compares: rows themselves need not be kept."""
    return {row.id: content_id(row) for row in rows}


def new_rows(rows: Iterable[Row], known: Mapping[str, str]) -> list[Row]:
    """Rows that the run has not seen: neither left, nor learned from, nor held out. `known`: the `contents` of those that it has.

    Raises InvalidInput where an id is that of another row already."""
    fresh = []
    for row in rows:
        seen = known.get(row.id)
        if seen is None:
            fresh.append(row)
        elif seen != content_id(row):
            raise errors.InvalidInput(
                f"The id {row.id!r} is that of another row of this run; give new rows ids of their own.", field="id"
            )
    return fresh


def _within(data: DataSet) -> Overlap:
    seen: dict[bytes, str] = {}
    pairs = []
    for row in data.rows:
        first = seen.setdefault(folded(row), row.id)
        if first != row.id:
            pairs.append(f"{place(data, first)} = {place(data, row.id)}")
    return Overlap(data.role, data.role, len(pairs), tuple(pairs[:EXAMPLES]), warning=False)


def _between(first: DataSet, second: DataSet) -> Overlap:
    places: dict[bytes, list[str]] = defaultdict(list)
    for row in first.rows:
        places[folded(row)].append(row.id)
    pairs = [
        f"{place(first, places[content][0])} = {place(second, row.id)}"
        for row in second.rows
        if (content := folded(row)) in places
    ]
    return Overlap(first.role, second.role, len(pairs), tuple(pairs[:EXAMPLES]), crosses_held_out(first.role, second.role))


def crosses_held_out(first: Role, second: Role) -> bool:
    """Whether rows of one are measured on and those of the other trained on or answered."""
    return (first in _HELD_OUT) != (second in _HELD_OUT)


def folded(row: Row) -> bytes:
    """A digest of what two rows are compared by: of a million rows all are in memory at once."""
    parts = "\0".join((fold(row.question), *(fold(option) for option in row.options)))
    return blake2b(parts.encode(errors="surrogatepass"), digest_size=16).digest()


def place(data: DataSet, row_id: str) -> str:
    return f"{data.file}:{data.lines[row_id]}"
