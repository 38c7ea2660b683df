"""Plain values <-> messages of semievol.judging.v1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from semievol.algorithm.types import (
    Answer,
    Candidate,
    Decision,
    Message,
    NoAnswer,
    Reason,
    Row,
    Selection,
    Task,
    Verdict,
)
from semievol.common import errors
from semievol.common.v1 import chat_pb2, task_pb2
from semievol.common.wire import known, task_to_wire
from semievol.judging.core import DEFAULT_MAX_TOKENS, UNPARSED
from semievol.judging.v1 import judging_service_pb2 as pb
from semievol.ports import BASE_MODEL, JudgeRequest

_NO_ANSWERS = {
    pb.NO_ANSWER_EMPTY: NoAnswer.EMPTY,
    pb.NO_ANSWER_TRUNCATED: NoAnswer.TRUNCATED,
    pb.NO_ANSWER_UNPARSEABLE: NoAnswer.UNPARSEABLE,
    pb.NO_ANSWER_TIMEOUT: NoAnswer.TIMEOUT,
    pb.NO_ANSWER_REFUSED: NoAnswer.REFUSED,
}
_DECISIONS = {
    pb.DECISION_UNANIMOUS: Decision.UNANIMOUS,
    pb.DECISION_JUDGED: Decision.JUDGED,
    pb.DECISION_NONE: Decision.NONE,
}
_REASONS = {
    pb.REASON_KEPT: Reason.KEPT,
    pb.REASON_ABOVE_THRESHOLD: Reason.ABOVE_THRESHOLD,
    pb.REASON_NO_ANSWER: Reason.NO_ANSWER,
    pb.REASON_NO_ENTROPY: Reason.NO_ENTROPY,
}
_NO_ANSWER_CODES = {value: code for code, value in _NO_ANSWERS.items()}
_DECISION_CODES = {value: code for code, value in _DECISIONS.items()}
_REASON_CODES = {value: code for code, value in _REASONS.items()}


# ---------------------------------------------------------------- Judge


def judge_request(
    model: str, task: Task, requests: Sequence[JudgeRequest], *, judge_all: bool, max_tokens: int
) -> pb.JudgeRequest:
    return pb.JudgeRequest(
        model=model,
        task=task_to_wire(task),
        items=[judge_item(request) for request in requests],
        judge_all=judge_all,
        max_tokens=max_tokens,
    )


def judge_item(request: JudgeRequest) -> pb.JudgeItem:
    """Only what a prompt may hold travels: no answer, no metadata (METHOD, trap 6)."""
    row = task_pb2.Row(id=request.row.id, question=request.row.question, options=request.row.options)
    return pb.JudgeItem(row=row, candidates=[_candidate_message(candidate) for candidate in request.candidates])


def _candidate_message(candidate: Candidate) -> pb.Candidate:
    message = pb.Candidate(collaborator=candidate.collaborator, text=candidate.text, token_logprobs=candidate.token_logprobs)
    if isinstance(candidate.answer, Answer):
        message.answer = candidate.answer.value
    else:
        message.no_answer = _NO_ANSWER_CODES[candidate.answer]
    return message


def model(request: pb.JudgeRequest) -> str:
    return request.model or BASE_MODEL


def max_tokens(request: pb.JudgeRequest) -> int:
    return request.max_tokens or DEFAULT_MAX_TOKENS


def judge_requests(items: Iterable[pb.JudgeItem]) -> list[JudgeRequest]:
    """Raises InvalidInput naming the field of a candidate."""
    return [
        JudgeRequest(
            Row(item.row.id, item.row.question, tuple(item.row.options)),
            tuple(_candidate(message, f"items[{i}].candidates[{j}]") for j, message in enumerate(item.candidates)),
        )
        for i, item in enumerate(items)
    ]


def _candidate(message: pb.Candidate, field: str) -> Candidate:
    answer: Answer | NoAnswer = Answer(message.answer) if message.answer else UNPARSED
    if message.no_answer:
        if message.answer:
            raise errors.InvalidInput(
                "A candidate has an answer or the reason why it has none, not both.", field=f"{field}.answer"
            )
        answer = known(_NO_ANSWERS, message.no_answer, f"{field}.no_answer")
    return Candidate(message.collaborator, message.text, answer, tuple(message.token_logprobs))


def judge_response(verdicts: Iterable[Verdict]) -> pb.JudgeResponse:
    return pb.JudgeResponse(
        verdicts=[
            pb.Verdict(
                row_id=verdict.row_id,
                decision=_DECISION_CODES[verdict.decision],
                answer=verdict.answer.value if verdict.answer else "",
                response=verdict.response,
                agreement=verdict.agreement,
                transcript=[chat_pb2.Message(role=one.role, content=one.content) for one in verdict.transcript],
            )
            for verdict in verdicts
        ]
    )


def verdicts(response: pb.JudgeResponse) -> list[Verdict]:
    return [
        Verdict(
            message.row_id,
            _DECISIONS[message.decision],
            Answer(message.answer) if message.answer else None,
            message.response,
            message.agreement,
            tuple(Message(one.role, one.content) for one in message.transcript),
        )
        for message in response.verdicts
    ]


# ---------------------------------------------------------------- Select


def select_request(
    entropies: Mapping[str, float | None], theta: float, threshold_entropies: Sequence[float] | None
) -> pb.SelectRequest:
    return pb.SelectRequest(
        rows=[pb.RowEntropy(row_id=row_id, entropy=value) for row_id, value in entropies.items()],
        theta=theta,
        threshold_entropies=threshold_entropies or (),
    )


def row_entropies(rows: Iterable[pb.RowEntropy]) -> dict[str, float | None]:
    return {row.row_id: row.entropy if row.HasField("entropy") else None for row in rows}


def select_response(selection: Selection) -> pb.SelectResponse:
    return pb.SelectResponse(
        threshold=selection.threshold,
        reasons=[pb.RowReason(row_id=row_id, reason=_REASON_CODES[reason]) for row_id, reason in selection.reasons.items()],
    )


def selection(response: pb.SelectResponse) -> Selection:
    return Selection(
        response.threshold if response.HasField("threshold") else None,
        {message.row_id: _REASONS[message.reason] for message in response.reasons},
    )
