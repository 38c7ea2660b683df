"""Nothing is lost between a plain value and its message, and what no prompt may hold does not travel at all."""

from __future__ import annotations

import pytest
from semievol.algorithm.types import (
    Answer,
    AnswerForm,
    Candidate,
    Decision,
    Message,
    NoAnswer,
    Reason,
    Row,
    Selection,
    Task,
    TaskType,
    Verdict,
)
from semievol.common.wire import task_from_wire
from semievol.judging import wire
from semievol.judging.v1 import judging_service_pb2 as pb
from semievol.ports import JudgeRequest

ROW = Row("r", "Where?", ("Roads", "Water"))


@pytest.mark.parametrize("type_", list(TaskType))
@pytest.mark.parametrize("form", list(AnswerForm))
def test_a_task_survives_the_wire(type_: TaskType, form: AnswerForm) -> None:
    task = Task(type_, form, "Say it.", ("Roads", "Water"))
    message = wire.judge_request("warm", task, [], judge_all=True, max_tokens=9)
    assert task_from_wire(message.task) == task
    assert (wire.model(message), wire.max_tokens(message), message.judge_all) == ("warm", 9, True)


@pytest.mark.parametrize("answer", [Answer("B"), *NoAnswer])
def test_a_candidate_survives_the_wire(answer: Answer | NoAnswer) -> None:
    request = JudgeRequest(ROW, (Candidate("warm-2", "Answer: Water", answer, (-0.5, -0.25)),))
    assert wire.judge_requests([wire.judge_item(request)]) == [request]


@pytest.mark.parametrize("decision", list(Decision))
def test_a_verdict_survives_the_wire(decision: Decision) -> None:
    none = decision is Decision.NONE
    verdict = Verdict(
        "r", decision, None if none else Answer("B"), "" if none else "Answer: Water", 1 / 3, (Message("user", "Where?"),)
    )
    assert wire.verdicts(wire.judge_response([verdict])) == [verdict]


@pytest.mark.parametrize("threshold", [None, 0.0, 0.1])
def test_a_selection_survives_the_wire_in_order(threshold: float | None) -> None:
    selection = Selection(threshold, {f"r{9 - i}": reason for i, reason in enumerate(Reason)})
    received = wire.selection(wire.select_response(selection))
    assert received == selection
    assert list(received.reasons) == list(selection.reasons)


def test_entropies_survive_the_wire() -> None:
    entropies = {"b": 0.0, "a": None, "c": 1 / 3}
    assert wire.row_entropies(wire.select_request(entropies, 50, None).rows) == entropies


def test_an_answer_or_metadata_of_a_row_never_leaves_the_client() -> None:
    """METHOD, trap 6: an unlabeled row may carry its answer, and the FPB files carry it again as `gt`."""
    row = Row("r", "Where?", ("Roads", "Water"), answer="SECRET", response="SECRET", category="SECRET", metadata={"gt": "SECRET"})
    item = wire.judge_item(JudgeRequest(row, (Candidate("a", "Answer: B", Answer("B")),)))
    assert b"SECRET" not in item.SerializeToString()


def test_every_code_of_the_api_has_its_value() -> None:
    for enum, values in ((pb.NoAnswer, NoAnswer), (pb.Decision, Decision), (pb.Reason, Reason)):
        assert len(enum.values()) == len(values) + 1  # and the unspecified one
