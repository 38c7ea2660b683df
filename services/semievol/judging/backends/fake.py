"""A test double: the majority decides, and no model is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from semievol.algorithm import selection, semievol
from semievol.algorithm.answers import target_text
from semievol.algorithm.prompts import judge_prompt
from semievol.algorithm.types import Answer, Decision, Message, Selection, Task, Verdict
from semievol.common import errors
from semievol.judging import core
from semievol.ports import BASE_MODEL, NEVER, Cancel, JudgeRequest


class FakeJudge:
    """Implements ports.Judge. Of equally frequent answers the first decides."""

    def __init__(self, models: Sequence[str] = (BASE_MODEL,)) -> None:
        self._models = models

    def judge(
        self,
        model: str,
        task: Task,
        requests: Sequence[JudgeRequest],
        *,
        judge_all: bool = False,
        max_tokens: int = core.DEFAULT_MAX_TOKENS,
        cancel: Cancel = NEVER,
    ) -> list[Verdict]:
        if model not in self._models:
            raise errors.NotFound(f"There is no model {model!r}; there are: {', '.join(self._models)}.")
        if cancel.is_set():
            raise errors.Cancelled("Judging was cancelled.")
        return [_verdict(request, task, judge_all) for request in core.checked(requests, task, max_tokens)]

    def select(
        self, entropies: Mapping[str, float | None], theta: float, *, threshold_entropies: Sequence[float] | None = None
    ) -> Selection:
        return selection.select(entropies, theta, threshold_entropies=threshold_entropies)


def _verdict(request: JudgeRequest, task: Task, judge_all: bool) -> Verdict:
    row, candidates = request.row, request.candidates
    votes = Counter(candidate.answer for candidate in candidates if isinstance(candidate.answer, Answer))
    if not votes:
        return Verdict(row.id, Decision.NONE, None, "", 0.0)
    (answer, count), *_ = votes.most_common(1)
    response = target_text(answer, row, task)
    if not semievol.needs_judging(candidates, task, judge_all=judge_all):
        return Verdict(row.id, Decision.UNANIMOUS, answer, response, 1.0)
    transcript = (*judge_prompt(row, candidates, task), Message("assistant", response))
    return Verdict(row.id, Decision.JUDGED, answer, response, count / len(candidates), transcript)
