"""From response text to a canonical answer, or to the reason why there is none (App. B.2 of the paper; METHOD traps 1 and 7)."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from semievol.algorithm.types import Answer, AnswerForm, NoAnswer, Row, Task, TaskType

NUMBER_TOLERANCE = 1e-2  # App. B.2; D: relative, absolute below 1

_MARKER = re.compile(r"answer\s*(?:is)?\s*[:\uff1a]\s*", re.IGNORECASE)
_LETTER = re.compile(r"^[\W_]*(?:option\s+)?([A-Z])(?![A-Za-z0-9'])", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?")
_REFUSAL = re.compile(r"^\W*(?:i['\u2019]?m sorry|sorry,|i (?:can(?:no|')?t|am unable|am not able)|as an ai\b)", re.IGNORECASE)
_OUTER = " \t\r\n.,;:!?\"'`*_()[]{}<>\u201c\u201d\u2018\u2019"


def parse(text: str, row: Row, task: Task, *, truncated: bool = False) -> Answer | NoAnswer:
    """The answer that a response gives to a row. What follows the last `Answer:` counts; without that marker, the whole response does.

    `truncated`: the model was cut off (finish reason LENGTH); matters only where no answer is found.
    """
    if not text.strip():
        return NoAnswer.EMPTY
    stated = _stated(text)
    answer = _canonical(stated, row, task)
    if answer is not None:
        return answer
    if truncated:
        return NoAnswer.TRUNCATED
    return NoAnswer.REFUSED if _REFUSAL.match(text) else NoAnswer.UNPARSEABLE


def _stated(text: str) -> str:
    markers = list(_MARKER.finditer(text))
    if not markers:
        return text.strip()
    return text[markers[-1].end() :].strip()


def _canonical(stated: str, row: Row, task: Task) -> Answer | None:
    first_line = stated.splitlines()[0].strip() if stated else ""
    if task.type is TaskType.CHOICE:
        letter = choice_letter(first_line, row.options, lenient=True)
        return Answer(letter) if letter else None
    if task.type is TaskType.NUMBER:
        number = canonical_number(first_line)
        return Answer(number) if number is not None else None
    folded = fold(first_line)
    return Answer(folded) if folded else None


def choice_letter(value: str, options: tuple[str, ...], *, lenient: bool = False) -> str | None:
    """The letter of the option that `value` names: an option's own words first, then a letter (`b`, `B.`, `(B)`).

    `lenient` (for model output) also takes a letter or an option's words at the beginning of a longer text (`B) because ...`).
    None where nothing or more than one option fits.
    """
    folded = fold(value)
    exact = [index for index, option in enumerate(options) if fold(option) == folded]
    if len(exact) == 1:
        return chr(ord("A") + exact[0])
    bare = value.strip(_OUTER)
    letter = bare.upper() if len(bare) == 1 else None
    if letter is None and lenient:
        begins = [index for index, option in enumerate(options) if _begins_with(folded, fold(option))]
        if begins:  # of `New York` and `New York City` the longer one is meant
            return chr(ord("A") + max(begins, key=lambda index: len(fold(options[index]))))
        match = _LETTER.match(value)
        # `A` may be the article of a sentence: as a letter it must be followed by punctuation or the end
        letter = match[1].upper() if match and not re.match(r"\s+[a-z]", value[match.end() :]) else None
    if letter and "A" <= letter <= "Z" and ord(letter) - ord("A") < len(options):
        return letter
    return None


def _begins_with(folded: str, option: str) -> bool:
    return bool(option) and folded.startswith(option) and (len(folded) == len(option) or not folded[len(option)].isalnum())


def canonical_number(value: str) -> str | None:
    """The shortest decimal of the first number in `value` (`$1,234.50` -> `1234.5`); None where there is none."""
    for match in _NUMBER.finditer(value):
        digits = match[0].replace(",", "")
        if not any(character.isdigit() for character in digits):
            continue
        try:
            number = Decimal(digits)
        except InvalidOperation:
            continue
        if abs(number) >= Decimal("1e15") or (number and abs(number) < Decimal("1e-12")):
            return str(number.normalize())
        return format(number.normalize(), "f") if number else "0"
    return None


def fold(text: str) -> str:
    """Case, white space and outer punctuation folded: what free text is compared by."""
    return " ".join(text.split()).strip(_OUTER).casefold()


def equal(a: Answer | NoAnswer, b: Answer | NoAnswer, task: Task) -> bool:
    """Whether two answers agree. No answer agrees with nothing, not even with another absence (trap 1)."""
    if not isinstance(a, Answer) or not isinstance(b, Answer):
        return False
    if task.type is not TaskType.NUMBER or a.value == b.value:
        return a.value == b.value
    x, y = float(a.value), float(b.value)
    return abs(x - y) <= NUMBER_TOLERANCE * max(1.0, abs(y))


def canonical_answer(value: str, row: Row, task: Task) -> Answer | None:
    """The canonical form of an answer that stands in a data file, where no sentence surrounds it. None: it is not an answer to this row."""
    if task.type is TaskType.CHOICE:
        letter = choice_letter(value, row.options)
        return Answer(letter) if letter else None
    return _canonical(value, row, task)


def target_text(answer: Answer, row: Row, task: Task) -> str:
    """The canonical response that says `answer`: what a model is trained to write."""
    if task.type is TaskType.CHOICE and task.answer is AnswerForm.TEXT:
        return f"Answer: {row.options[ord(answer.value) - ord('A')]}"
    return f"Answer: {answer.value}"
