"""One record of a data file -> a Row, or the reason why it is none.

Columns (columns.py finds them): `question`; `options` for multiple choice (a JSON list, a Python list as some CSV files have it, an
object of lists `text` and `label`, a list of such objects, or an object of letters, as some hubs do); `answer` where the file is
labeled; `id` and `category` if there are any. All others are metadata (METHOD, trap 6).

The answer of a multiple-choice row is its option's letter (`b`, `B.`, `(B)`), number from 1, or own words; `algorithm.options`
says what holds where two readings are possible (a lone letter is a label, even where an option reads like it).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semievol.algorithm.answers import canonical_answer
from semievol.algorithm.options import letter_of
from semievol.algorithm.types import MAX_OPTIONS, Row, Task, TaskType
from semievol.common.keys import content_key
from semievol.data.chats import BadRecordError
from semievol.data.columns import Taken
from semievol.data.formats import is_clean

__all__ = ["BadRecordError", "Parsed", "content_id", "final_number", "is_number", "parse_row", "required"]

MAX_ID_LETTERS = 256
_MAX_LITERAL = 64 * 1024  # characters of a Python list; parsing one takes far more memory than its text
_NUMBER = re.compile(r"\$?[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][-+]?\d{1,3})?%?")


@dataclass(frozen=True, slots=True)
class Parsed:
    """`row` has no answer yet, and no id where the record has none. `answer` is what Row.answer would be; `answer_fault` why it cannot be used;
    `from_zero`: it seems to count the options from 0, and so do all others of its file."""

    row: Row
    answer: str | None
    answer_fault: str
    from_zero: bool = False


class FromZeroError(BadRecordError):
    """The answer of a choice is 0: another answer of its file is another option than it says."""


def required(task: Task, labeled: bool) -> tuple[str, ...]:
    """The columns that must be there."""
    return (
        "question",
        *(("options",) if task.type is TaskType.CHOICE and not task.options else ()),
        *(("answer",) if labeled else ()),
    )


def parse_row(taken: Taken, task: Task) -> Parsed:
    """Raises BadRecordError."""
    values = taken.values
    _check_characters(values)
    _check_characters(taken.metadata)
    question = _string(values, "question").strip()
    if not question:
        raise BadRecordError("the question is empty")
    row = Row(
        id=_id(values),
        question=question,
        options=_options(values.get("options"), task),
        category=_string(values, "category").strip(),
        metadata={name: _shown(value) for name, value in taken.metadata.items()},
    )
    try:
        return Parsed(row, _answer(values.get("answer"), row, task), "")
    except BadRecordError as fault:
        return Parsed(row, None, str(fault), isinstance(fault, FromZeroError))


def content_id(row: Row) -> str:
    """A row's id where its file gives none: the same question and options have the same id in every file."""
    return content_key([row.question, list(row.options)])[:16]


def _check_characters(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if not is_clean(name) or not is_clean(text):
            fault = "a NUL character" if "\0" in text else "bytes or characters that are no UTF-8 text"
            raise BadRecordError(f"column {name!r} has {fault}")
        if "\\u0000" in text and not isinstance(value, str):  # a NUL that JSON escapes
            raise BadRecordError(f"column {name!r} has a NUL character")


def _string(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRecordError(f"{name!r} is not a text")
    return value


def _id(values: Mapping[str, Any]) -> str:
    if "id" not in values:
        return ""
    value = values["id"]
    if value is None:
        raise BadRecordError("the id is null; give each row one, or leave the column out")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRecordError("'id' is neither a text nor a whole number")
    text = str(value).strip()
    if not text:
        raise BadRecordError("the id is empty")
    if len(text) > MAX_ID_LETTERS or not text.isprintable():
        raise BadRecordError(f"the id is longer than {MAX_ID_LETTERS} letters or has control characters")
    return text


def _shown(value: Any) -> str:
    """A metadata cell as text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _options(value: Any, task: Task) -> tuple[str, ...]:
    listed = _option_list(value)
    if task.type is not TaskType.CHOICE:
        if listed:
            raise BadRecordError(f"the row has options, but the task's type is {task.type}")
        return ()
    options = tuple(_option(index, option) for index, option in enumerate(listed))
    if task.options:
        if options and options != task.options:
            raise BadRecordError("the row's options are not those of task.options")
        return ()
    if len(options) < 2:
        raise BadRecordError(f"a multiple-choice row needs at least 2 options, this has {len(options)}")
    if len(options) > MAX_OPTIONS:
        raise BadRecordError(f"a multiple-choice row can have {MAX_OPTIONS} options, this has {len(options)}")
    for index, option in enumerate(options):
        if option in options[:index]:
            raise BadRecordError(f"options {_letter(options.index(option))} and {_letter(index)} are the same")
    return options


def _option_list(value: Any) -> list[Any]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str):
        value = _literal(value.strip())
    if isinstance(value, list) and value and all(isinstance(one, dict) and set(one) == {"text", "label"} for one in value):
        value = {name: [one[name] for one in value] for name in ("text", "label")}
    elif isinstance(value, dict) and value and set(value) == {_letter(index) for index in range(len(value))}:
        value = [value[letter] for letter in sorted(value)]
    if isinstance(value, dict) and set(value) == {"text", "label"}:
        value = _labeled_options(value)
    if not isinstance(value, list | tuple):
        raise BadRecordError('\'options\' is neither a JSON list nor a Python list, such as ["red", "blue"]')
    return list(value)


def _labeled_options(value: dict[str, Any]) -> Any:
    """`{"text": [...], "label": ["A", "B", ...]}`: the texts, where the labels are the letters or numbers that we give them, too."""
    texts, labels = value["text"], value["label"]
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
        return None
    numbers = [str(index + 1) for index in range(len(texts))]
    letters = [_letter(index) for index in range(len(texts))]
    if [str(label) for label in labels] not in (numbers, letters):
        raise BadRecordError(
            f"the options' labels are {', '.join(map(str, labels))[:60]}; letters from A or numbers from 1 are expected"
        )
    return texts


def _literal(text: str) -> Any:
    """The value of a JSON or Python literal; None for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if not text.startswith(("[", "(")) or len(text) > _MAX_LITERAL:
        return None
    try:
        return ast.literal_eval(text)  # evaluates nothing but constants
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _option(index: int, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise BadRecordError(f"option {_letter(index)} is neither a text nor a number")
    text = "" if value is None else str(value).strip()
    if not text or not is_clean(text):
        raise BadRecordError(f"option {_letter(index)} is empty" if not text else f"option {_letter(index)} is no UTF-8 text")
    return text


def _letter(index: int) -> str:
    return letter_of(index) if index < MAX_OPTIONS else str(index + 1)


def final_number(text: str) -> str:
    """What a solution says after `####`, as the school problems of GSM8K and its like end; any other text as it is."""
    _, mark, number = text.rpartition("####")
    return number.strip() if mark and is_number(number) else text


def is_number(text: str) -> bool:
    """Whether a text is a number and nothing else."""
    return bool(_NUMBER.fullmatch(text.strip()))


def _answer(value: Any, row: Row, task: Task) -> str | None:
    """What Row.answer holds: a letter for a choice, the file's own words otherwise; None where the cell is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str | int | float):
        raise BadRecordError("'answer' is neither a text nor a number")
    text = json.dumps(value) if isinstance(value, bool) else str(value).strip()
    if task.type is TaskType.NUMBER:
        text = final_number(text)
    answer = canonical_answer(text, row, task)
    if task.type is TaskType.CHOICE:
        if answer is None:
            letters = f"A-{_letter(len(task.options_of(row)) - 1)}"
            reason = f"the answer {text[:60]!r} is neither a letter {letters} nor one of the options"
            if text == "0":
                raise FromZeroError(f"{reason}; numbers count the options from 1: write letters or the options' words")
            raise BadRecordError(reason)
        return answer.value
    if task.type is TaskType.NUMBER and not (answer and is_number(text)):
        raise BadRecordError(f"the answer {text[:60]!r} is not a number; write the number alone")
    if answer is None:
        raise BadRecordError(f"the answer {text[:60]!r} has no words")
    return text
