"""From response text to a canonical answer, or to the reason why there is none (App. B.2 of the paper; METHOD traps 1 and 7).

A response is read strictly: a wrong pseudo-label costs more than a missing one. What follows the last `Answer:` counts. Without
that marker a response counts only where it is nothing but an answer (`B`, `(B) Rome`, `42`), and free text needs the marker.
"""

from __future__ import annotations

import re

from semievol.algorithm.folding import fold
from semievol.algorithm.numbers import canonical_number, equal_numbers
from semievol.algorithm.options import letter_in_file, named_option, only_choice, stated_choice
from semievol.algorithm.types import Answer, AnswerForm, NoAnswer, Row, Task, TaskType

__all__ = ["canonical_answer", "equal", "fold", "parse", "target_text"]

_MARKUP = r"[\s*_`]*"
_MARKERS = (  # the second is looked for only where the first is nowhere: `This answer is correct` may follow `Answer: B`
    re.compile(rf"\banswer{_MARKUP}(?:is{_MARKUP})?[:\uff1a]", re.IGNORECASE),
    re.compile(r"\banswer\s+is\b", re.IGNORECASE),
)
_RUN_ON = re.compile(r"^[^\w\n]*Question:", re.MULTILINE)  # base models go on with the next worked example
_REFUSAL = re.compile(
    r"\W*(?:i['\u2019]?m sorry|sorry,|i (?:can(?:no|['\u2019])?t|am unable|am not able|do not know|don['\u2019]t know)|as an ai\b)",
    re.IGNORECASE,
)
_PLACEHOLDERS = ("value", "letter", "option")  # of our own instructions, which small models repeat
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\{([^{}]*)\}")


def parse(text: str, row: Row, task: Task, *, truncated: bool = False) -> Answer | NoAnswer:
    """The answer that a response gives to a row, or why it gives none. `truncated`: the model was cut off (finish reason LENGTH)."""
    if not text.strip():
        return NoAnswer.EMPTY
    stated = _stated(_LATEX.sub(r"\1", text), row, task)
    value = _bare(text.strip(), row, task) if stated is None else _canonical(stated, row, task)
    declined = _REFUSAL.match(stated or "") is not None
    if task.type is TaskType.TEXT and (declined or value in _PLACEHOLDERS):  # any words are an answer, but not these
        value = None
    if value is not None and not (truncated and _unfinished(stated or text, row, task)):
        return Answer(value)
    if truncated:
        return NoAnswer.TRUNCATED
    return NoAnswer.REFUSED if declined or _REFUSAL.match(text) else NoAnswer.UNPARSEABLE


def _stated(text: str, row: Row, task: Task) -> str | None:
    """What follows the last marker that anything follows; None without a marker."""
    markers = next((found for marker in _MARKERS if (found := list(marker.finditer(text)))), [])
    if not markers:
        return None
    if task.type is TaskType.CHOICE:  # an option may itself say `answer:`
        longest = 2 * max(map(len, task.options_of(row)), default=0)
        rests = [text[marker.end() :].strip() for marker in markers if len(text) - marker.end() <= longest]
        option = next((rest for rest in rests if named_option(rest, task.options_of(row))), None)
        if option is not None:
            return option
    first = markers[0].end()
    run_on = _RUN_ON.search(text, first)
    end = run_on.start() if run_on else len(text)
    following = [text[marker.end() : end].strip() for marker in markers if marker.end() <= end]
    return next((rest for rest in reversed(following) if rest), "")


def _canonical(stated: str, row: Row, task: Task) -> str | None:
    """The canonical form of a stated answer: its first line counts."""
    if task.type is TaskType.CHOICE:
        return stated_choice(stated, task.options_of(row), letters_first=task.answer is AnswerForm.LETTER)
    line = stated.splitlines()[0] if stated else ""
    if task.type is TaskType.NUMBER:
        return canonical_number(line)
    return fold(line) or None


def _bare(text: str, row: Row, task: Task) -> str | None:
    """The answer of a response without a marker: it must be all that the response says."""
    if task.type is TaskType.CHOICE:
        return only_choice(text, task.options_of(row), letters_first=task.answer is AnswerForm.LETTER)
    return canonical_number(text, alone=True) if task.type is TaskType.NUMBER else None


def _unfinished(stated: str, row: Row, task: Task) -> bool:
    """Whether more tokens could have changed what is stated: `12` of `1234`, `New York` of `New York City`."""
    stated = stated.strip()
    if "\n" in stated:
        return False
    if task.type is TaskType.CHOICE:
        folded = fold(stated)
        return any(
            fold(option) != folded and fold(option).startswith(folded) for option in task.options_of(row) if len(folded) > 1
        )
    return task.type is TaskType.TEXT or stated[-1:].isdigit() or stated[-1:] in (".", ",", "/")


def equal(a: Answer | NoAnswer, b: Answer | NoAnswer, task: Task) -> bool:
    """Whether answer `a` agrees with `b`, the reference of a relative error. No answer agrees with nothing, not even with another
    absence (trap 1)."""
    if not isinstance(a, Answer) or not isinstance(b, Answer):
        return False
    return equal_numbers(a.value, b.value) if task.type is TaskType.NUMBER else a.value == b.value


def canonical_answer(value: str, row: Row, task: Task) -> Answer | None:
    """The canonical form of an answer that stands in a data file, where no sentence surrounds it; the same again for a canonical one.
    None: it is not an answer to this row."""
    canonical = (
        letter_in_file(value, task.options_of(row)) if task.type is TaskType.CHOICE else _canonical(value.strip(), row, task)
    )
    return None if canonical is None else Answer(canonical)


def target_text(answer: Answer, row: Row, task: Task) -> str:
    """The canonical response that says `answer`: what a model is trained to write."""
    if task.type is TaskType.CHOICE and task.answer is AnswerForm.TEXT:
        return f"Answer: {task.options_of(row)[ord(answer.value) - ord('A')]}"
    return f"Answer: {answer.value}"
