"""A file's columns -> ours: by their own names, by the map that users give, or from a chat (chats.py).

A map has our name on the left and the file's on the right, `answer=label`; options may lie in a column each, `options=A,B,C,D`. It
holds for all files of a run, so a file that has our name already, and not the other, is taken as it is. Whatever is not taken is
metadata, a column that another one replaces included.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semievol.common.columns import CHAT_COLUMNS, COLUMNS, MAPPABLE, NO_MAP
from semievol.data import chats

# What other data sets call our columns, the surest name first. A suggestion, never a guess that is acted on.
_OTHER_NAMES = {
    "question": (
        "query",
        "text",
        "sentence",
        "problem",
        "instruction",  # before Alpaca's `input`, which is mostly empty
        "input",
        "utterance",
        "document",
        "content",
        "ctx",
        "title",
    ),
    "options": ("choices", "candidates", "alternatives", "endings", "answers"),
    "answer": (
        "label",
        "target",
        "gold",
        "answerkey",
        "answer_key",
        "output",
        "response",
        "correct",
        "solution",
        "class",
        "label_text",
    ),
    "messages": ("conversations", "conversation", "chat", "dialogue"),
}


# A column for each option, such as A, option_a, choice1 or opa: what they begin with, and the letter or number.
_OPTION_COLUMN = re.compile(r"((?:op|opt|option|choice|answer|ending)?[ _-]?)([a-z]|\d{1,2})")
_MOST_PLANS = 1000  # a file whose rows all have other columns must not fill the memory


@dataclass(frozen=True, slots=True)
class Taken:
    """A record in our columns, and what is left of it."""

    values: dict[str, Any]
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How records with certain columns are read. `named`: our column -> theirs; `options`: the columns of an option each; `chat`: our
    column -> theirs, of those that a chat is read from. `uses`: column -> what it is taken for; `given`: our columns that come out."""

    named: dict[str, str]
    options: tuple[str, ...]
    chat: dict[str, str]
    metadata: tuple[str, ...]
    uses: dict[str, str]
    given: frozenset[str]


class ColumnReader:
    """Reads records by a map. The plan for a set of columns is made once."""

    def __init__(self, names: Mapping[str, str] = NO_MAP) -> None:
        self._map = names
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def take(self, values: Mapping[str, Any]) -> Taken:
        """Raises BadRecordError (a chat that is no question with at most one answer)."""
        plan = self._plan(values)
        taken = {ours: values[theirs] for ours, theirs in plan.named.items()}
        if plan.options:
            taken["options"] = _without_blank_end([values.get(name) for name in plan.options])
        metadata = {name: values[name] for name in plan.metadata}
        if plan.chat:
            chat = chats.read({ours: values[theirs] for ours, theirs in plan.chat.items()})
            metadata |= chat.metadata
            taken |= {name: value for name, value in chat.values.items() if taken.get(name) is None}
        return Taken(taken, metadata)

    def uses(self, names: Iterable[str]) -> dict[str, str]:
        """Column -> what it is taken for: one of ours, `question and answer` of a chat, or `metadata`."""
        return self._plan(names).uses

    def given(self, names: Iterable[str]) -> frozenset[str]:
        """Which of our columns a record with these columns gives."""
        return self._plan(names).given

    def lacking(self, needed: Sequence[str], names: Iterable[str]) -> str | None:
        """What is missing, with the map that was probably meant; None if nothing is."""
        given = self.given(names)
        missing = [ours for ours in needed if ours not in given]
        if not missing:
            return None
        names = list(names)
        if missing[0] in self._map:
            return self.unmapped(missing[0], names)
        claimed = {name for ours in self._map for name in self._theirs(ours, names)}
        free = [name for name in names if name not in claimed and name not in COLUMNS]
        chat = next((name for name in free if name.lower() in _OTHER_NAMES["messages"]), None)
        if chat and missing[0] == "question":
            return f"there is no column 'question'; did you mean 'messages' by {chat!r}? (--map messages={chat}; in a run file data.map)"
        near = {ours: name for ours in missing if (name := _nearest(ours, free))}
        near |= {ours: name for ours, name in self.suggested(names).items() if ours not in near and name not in near.values()}
        first = missing[0]
        given_as = " ".join(f"--map {ours}={name}" for ours, name in ({first: "COLUMN"} | near).items())
        meant = f"did you mean {first!r} by {near[first]!r}?" if first in near else f"there are: {_listed(names)}"
        return f"there is no column {first!r}; {meant} ({given_as}; in a run file data.map)"

    def suggested(self, names: Iterable[str]) -> dict[str, str]:
        """Our column -> one that is taken for metadata and has its name in other case, or a well-known other name of it."""
        plan = self._plan(names)
        free = {name.lower(): name for name in reversed(plan.metadata) if name not in COLUMNS}
        found = {ours: [free[other] for other in (ours, *others) if other in free] for ours, others in _OTHER_NAMES.items()}
        found |= {"options": found["options"] or [",".join(_option_columns(plan.metadata))]}
        wanted = {ours for ours in COLUMNS if ours not in plan.given}
        return {ours: theirs[0] for ours, theirs in found.items() if ours in wanted and theirs and theirs[0]}

    def unmapped(self, ours: str, names: Iterable[str]) -> str:
        """Why a mapped column cannot be taken."""
        names = list(names)
        theirs = next(name for name in self._theirs(ours, names) if name not in names)
        near = difflib.get_close_matches(theirs.lower(), {name.lower(): name for name in names}, n=1)
        meant = next((name for name in names if near and name.lower() == near[0]), None)
        hint = f"did you mean {meant!r}?" if meant else f"there are: {_listed(names)}"
        return f"there is no column {theirs!r}, which is mapped to {ours!r}; {hint}"

    def absent(self, names: Iterable[str]) -> list[str]:
        """Our columns that are mapped to one that is not among these, and that are not there under our name either."""
        names = set(names)
        return [ours for ours in self._map if ours not in names and not names.issuperset(self._theirs(ours, names))]

    def _theirs(self, ours: str, names: Collection[str]) -> tuple[str, ...]:
        """The columns that the map has for ours: one, or those of the options."""
        theirs = self._map[ours]
        if ours != "options" or "," not in theirs or theirs in names:
            return (theirs,)
        return tuple(name.strip() for name in theirs.split(","))

    def _plan(self, names: Iterable[str]) -> _Plan:
        key = tuple(names)
        if key not in self._plans:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[key] = self._made(key)
        return self._plans[key]

    def _made(self, names: tuple[str, ...]) -> _Plan:
        mapped = {ours: theirs for ours, theirs in self._map.items() if theirs in names}
        options = self._theirs("options", names) if "options" in self._map and "options" not in mapped else ()
        options = options if set(options).intersection(names) else ()
        claimed = {*mapped.values(), *options}
        found = {ours: mapped.get(ours, ours) for ours in MAPPABLE if ours in mapped or (ours in names and ours not in claimed)}
        named = {ours: theirs for ours, theirs in found.items() if ours in COLUMNS and not (options and ours == "options")}
        chat = {} if "question" in named else chats.form({ours: found[ours] for ours in CHAT_COLUMNS if ours in found})
        uses = {theirs: chats.MEANINGS[ours] for ours, theirs in chat.items()}
        for ours, theirs in named.items():
            uses[theirs] = f"{uses[theirs]}, {ours}" if theirs in uses else ours
        uses |= dict.fromkeys((name for name in options if name in names), "options")
        given = {*named, *(["options"] if options else ()), *(ours for part in chat for ours in chats.GIVES[part])}
        metadata = tuple(name for name in names if name not in uses)
        return _Plan(named, options, chat, metadata, {name: uses.get(name, "metadata") for name in names}, frozenset(given))


def _without_blank_end(cells: list[Any]) -> list[Any]:
    """Rows with fewer options than others leave the last columns empty."""
    while cells and (cells[-1] is None or (isinstance(cells[-1], str) and not cells[-1].strip())):
        cells.pop()
    return cells


def _option_columns(names: Sequence[str]) -> list[str]:
    """Those that have an option each, by their names: at least two, with letters from A or numbers from 1 or 0 after the same beginning."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _OPTION_COLUMN.fullmatch(name.lower()):
            found.setdefault(match[1], {})[match[2]] = name
    for beginning, columns in found.items():
        count = range(len(columns))
        letters = [chr(ord("a") + index) for index in count]
        numbers = [[str(first + index) for index in count] for first in (1, 0)] if beginning else []
        marks = next((marks for marks in (letters, *numbers) if set(marks) == set(columns)), None)
        if marks and len(marks) > 1:
            return [columns[mark] for mark in marks]
    return []


def _nearest(ours: str, names: Sequence[str]) -> str | None:
    """The column that is probably ours: nearly its name, or what others call it."""
    if ours == "options" and (each := _option_columns(names)):
        return ",".join(each)
    folded = {name.lower().strip(): name for name in names}
    near = difflib.get_close_matches(ours, folded, n=1, cutoff=0.75)
    known = (
        near or [other for other in _OTHER_NAMES.get(ours, ()) if other in folded] or difflib.get_close_matches(ours, folded, n=1)
    )
    return folded[known[0]] if known else None


def _listed(names: list[str]) -> str:
    text = ", ".join(repr(name[:40]) for name in names[:10])
    return text + (", ..." if len(names) > 10 else "") if names else "none"
