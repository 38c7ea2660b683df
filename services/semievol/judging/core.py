"""Self-justify and selection as a `Judge`, over any generator; the method itself is `algorithm.semievol` and `algorithm.selection`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from semievol.algorithm import selection, semievol
from semievol.algorithm.answers import canonical_answer, parse
from semievol.algorithm.types import MAX_OPTIONS, Answer, Candidate, Row, Selection, Task, TaskType, Verdict
from semievol.common import errors
from semievol.ports import BASE_MODEL, NEVER, Cancel, Generator, JudgeRequest

MAX_CANDIDATES = 64
DEFAULT_MAX_TOKENS = 128  # of a verdict: an answer with a few sentences
UNPARSED = Answer("")  # a candidate's `answer` where only its text is known


class JudgingCore:
    """Implements ports.Judge. The judging model answers through `generator`."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def judge(
        self,
        model: str,
        task: Task,
        requests: Sequence[JudgeRequest],
        *,
        judge_all: bool = False,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        cancel: Cancel = NEVER,
    ) -> list[Verdict]:
        requests = checked(requests, task, max_tokens)
        return semievol.self_justify(
            self._generator,
            model,
            task,
            [request.row for request in requests],
            {request.row.id: request.candidates for request in requests},
            max_tokens,
            judge_all=judge_all,
            cancel=cancel,
        )

    def select(
        self, entropies: Mapping[str, float | None], theta: float, *, threshold_entropies: Sequence[float] | None = None
    ) -> Selection:
        return selection.select(entropies, theta, threshold_entropies=threshold_entropies)


def checked(requests: Sequence[JudgeRequest], task: Task, max_tokens: int) -> list[JudgeRequest]:
    """The requests with every candidate's answer parsed or canonical. Raises InvalidInput naming `max_tokens` or what is wrong in `items[i]`."""
    if max_tokens < 1:
        raise errors.InvalidInput(f"A verdict has at least one token, not {max_tokens}.", field="max_tokens")
    unique([request.row.id for request in requests], "items[{}].row.id")
    return [_checked_item(request, task, f"items[{i}]") for i, request in enumerate(requests)]


def unique(ids: Iterable[str], field: str) -> None:
    """Raises InvalidInput naming `field` with the place of an id that is empty or comes twice."""
    seen: set[str] = set()
    for i, row_id in enumerate(ids):
        if not row_id or row_id in seen:
            fault = f"The row id {row_id!r} comes twice." if row_id else "A row needs an id."
            raise errors.InvalidInput(fault, field=field.format(i))
        seen.add(row_id)


def check_page(count: int, max_batch_count: int) -> None:
    """Raises InvalidInput where one call brings too many rows."""
    if count > max_batch_count:
        raise errors.InvalidInput(
            f"{count} rows in one call; at most {max_batch_count} are taken. Send them in pages.", field="items"
        )


def _checked_item(request: JudgeRequest, task: Task, field: str) -> JudgeRequest:
    row = request.row
    if not row.question.strip():
        raise errors.InvalidInput("The question is empty.", field=f"{field}.row.question")
    if task.type is TaskType.CHOICE and not 2 <= len(task.options_of(row)) <= MAX_OPTIONS:
        raise errors.InvalidInput(
            f"A multiple-choice row has 2 to {MAX_OPTIONS} options, not {len(task.options_of(row))}.",
            field=f"{field}.row.options",
        )
    if task.options and row.options not in ((), task.options):
        raise errors.InvalidInput("The row's options are not those of the task.", field=f"{field}.row.options")
    if not 1 <= len(request.candidates) <= MAX_CANDIDATES:
        raise errors.InvalidInput(
            f"A row is judged from 1 to {MAX_CANDIDATES} candidates, not {len(request.candidates)}.", field=f"{field}.candidates"
        )
    candidates = [
        _checked_candidate(candidate, row, task, f"{field}.candidates[{j}].answer")
        for j, candidate in enumerate(request.candidates)
    ]
    return JudgeRequest(replace(row, options=()) if task.options else row, tuple(candidates))


def _checked_candidate(candidate: Candidate, row: Row, task: Task, field: str) -> Candidate:
    if candidate.answer == UNPARSED:
        return replace(candidate, answer=parse(candidate.text, row, task))
    if not isinstance(candidate.answer, Answer):
        return candidate
    canonical = canonical_answer(candidate.answer.value, row, task)
    if canonical is None:
        raise errors.InvalidInput(f"{candidate.answer.value[:60]!r} is not an answer to row {row.id!r}.", field=field)
    return replace(candidate, answer=canonical)


def prove(judge: JudgingCore) -> None:
    """One real verdict on a row whose candidates disagree (R12). Raises what judging raises."""
    row = Row("ready", "Is one more than zero?", ("yes", "no"))
    candidates = (Candidate("a", "Answer: A", Answer("A")), Candidate("b", "Answer: B", Answer("B")))
    judge.judge(BASE_MODEL, Task(), [JudgeRequest(row, candidates)], max_tokens=1)
