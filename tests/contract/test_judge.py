"""What every Judge does: the fake, the core over a generator, and the gRPC client in front of a real server."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import pytest
from semievol.algorithm.types import Answer, AnswerForm, Candidate, Decision, NoAnswer, Reason, Row, Task, TaskType
from semievol.client.judging import JudgingClient
from semievol.common import errors
from semievol.judging.backends.fake import FakeJudge
from semievol.judging.core import JudgingCore
from semievol.judging.server import service
from semievol.judging.settings import JudgingSettings
from semievol.ports import Judge, JudgeRequest

from tests.running import running
from tests.scripted import ScriptedGenerator

TASK = Task(TaskType.CHOICE, AnswerForm.TEXT)
OPTIONS = ("Roads", "Water", "Parks")


def request(row_id: str, *answers: str | NoAnswer) -> JudgeRequest:
    """A row whose candidates say these letters, or nothing."""
    candidates = tuple(
        Candidate(f"base-{i}", "noise", answer)
        if isinstance(answer, NoAnswer)
        else Candidate(f"base-{i}", f"Answer: {OPTIONS[ord(answer) - ord('A')]}", Answer(answer), (-0.5, -0.25))
        for i, answer in enumerate(answers)
    )
    return JudgeRequest(Row(row_id, f"Where does message {row_id} go?", OPTIONS), candidates)


@pytest.fixture(scope="module", params=["fake", "core", "client"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    """The judging model always says Water, and so does the majority of every disputed row below."""
    generator = ScriptedGenerator(lambda prompt: "Answer: Water", models=("base", "warm"))
    if request.param == "fake":
        yield FakeJudge(models=("base", "warm"))
    elif request.param == "core":
        yield JudgingCore(generator)
    else:
        with running(service(JudgingSettings(), generator)) as address:
            client = JudgingClient(address)
            yield client
            client.close()


def test_agreement_needs_no_judge(judge: Judge) -> None:
    (verdict,) = judge.judge("warm", TASK, [request("r", "C", "C", "C")])
    assert (verdict.decision, verdict.answer, verdict.response) == (Decision.UNANIMOUS, Answer("C"), "Answer: Parks")
    assert verdict.agreement == 1.0
    assert verdict.transcript == ()


def test_disagreement_is_judged_and_the_transcript_kept(judge: Judge) -> None:
    (verdict,) = judge.judge("warm", TASK, [request("r", "B", "A", "B")])
    assert (verdict.decision, verdict.answer, verdict.response) == (Decision.JUDGED, Answer("B"), "Answer: Water")
    assert verdict.agreement == 2 / 3
    assert [message.role for message in verdict.transcript] == ["user", "assistant"]
    assert "Where does message r go?" in verdict.transcript[0].content


def test_one_missing_answer_is_a_disagreement(judge: Judge) -> None:
    (verdict,) = judge.judge("warm", TASK, [request("r", "B", NoAnswer.TRUNCATED, "B")])
    assert (verdict.decision, verdict.agreement) == (Decision.JUDGED, 2 / 3)


@pytest.mark.parametrize("reason", list(NoAnswer))
@pytest.mark.parametrize("judge_all", [False, True])
def test_candidates_without_any_answer_exclude_the_row(judge: Judge, reason: NoAnswer, judge_all: bool) -> None:
    (verdict,) = judge.judge("warm", TASK, [request("r", *[reason] * 4)], judge_all=judge_all)
    assert (verdict.decision, verdict.answer, verdict.response, verdict.agreement) == (Decision.NONE, None, "", 0.0)


def test_judge_all_asks_about_agreed_rows_too(judge: Judge) -> None:
    (verdict,) = judge.judge("warm", TASK, [request("r", "B", "B")], judge_all=True)
    assert verdict.decision is Decision.JUDGED
    assert verdict.transcript


def test_verdicts_come_in_input_order_however_many_there_are(judge: Judge) -> None:
    rows = [request(f"r{i}", "B", "A" if i % 2 else "B", "B") for i in range(1500)]
    verdicts = judge.judge("base", TASK, rows)
    assert [verdict.row_id for verdict in verdicts] == [row.row.id for row in rows]
    assert {verdict.decision for verdict in verdicts[::2]} == {Decision.UNANIMOUS}
    assert {verdict.decision for verdict in verdicts[1::2]} == {Decision.JUDGED}


def test_no_rows_give_no_verdicts(judge: Judge) -> None:
    assert judge.judge("warm", TASK, []) == []


def test_an_answer_is_brought_to_its_canonical_form(judge: Judge) -> None:
    row = Row("r", "Where?", OPTIONS)
    candidates = (Candidate("a", "Answer: Parks", Answer("parks")), Candidate("b", "Answer: C.", Answer("C.")))
    (verdict,) = judge.judge("warm", TASK, [JudgeRequest(row, candidates)])
    assert (verdict.decision, verdict.answer) == (Decision.UNANIMOUS, Answer("C"))


def test_numbers_agree_within_the_tolerance(judge: Judge) -> None:
    candidates = tuple(Candidate(value, f"Answer: {value}", Answer(value)) for value in ("100", "100.5", "100"))
    (verdict,) = judge.judge("warm", Task(TaskType.NUMBER), [JudgeRequest(Row("r", "How many?"), candidates)])
    assert (verdict.decision, verdict.response) == (Decision.UNANIMOUS, "Answer: 100")


BAD = {
    "items[1].row.id": JudgeRequest(Row("", "Q?", OPTIONS), request("x", "A").candidates),
    "items[1].row.question": JudgeRequest(Row("x", " ", OPTIONS), request("x", "A").candidates),
    "items[1].row.options": JudgeRequest(Row("x", "Q?"), request("x", "A").candidates),
    "items[1].candidates": JudgeRequest(Row("x", "Q?", OPTIONS), ()),
    "items[1].candidates[0].answer": JudgeRequest(Row("x", "Q?", OPTIONS), (Candidate("a", "", Answer("Z")),)),
}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_row_is_named_by_its_place(judge: Judge, field: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        judge.judge("warm", TASK, [request("good", "A"), BAD[field]])
    assert caught.value.field == field


def test_a_row_id_may_not_come_twice(judge: Judge) -> None:
    with pytest.raises(errors.InvalidInput, match="twice") as caught:
        judge.judge("warm", TASK, [request("r", "A"), request("s", "A"), request("r", "B")])
    assert caught.value.field == "items[2].row.id"


def test_a_verdict_has_at_least_one_token(judge: Judge) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        judge.judge("warm", TASK, [request("r", "A", "B")], max_tokens=0)
    assert caught.value.field == "max_tokens"


def test_an_unknown_model_is_not_found(judge: Judge) -> None:
    with pytest.raises(errors.NotFound, match="warm"):
        judge.judge("nobody", TASK, [request("r", "A", "B")])


def test_a_cancelled_call_raises_cancelled(judge: Judge) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(errors.Cancelled):
        judge.judge("warm", TASK, [request("r", "A", "B")], cancel=cancel)


# ---------------------------------------------------------------- select


def test_the_cut_is_the_percentile_of_all_finite_entropies(judge: Judge) -> None:
    """H = 1, 2, 3, 4: the median by linear interpolation is 2.5, so 1 and 2 stay. The rows without an answer and without an entropy
    are no part of it."""
    entropies = {"d": 4.0, "a": 1.0, "none": None, "b": 2.0, "nan": math.nan, "inf": math.inf, "c": 3.0}
    selection = judge.select(entropies, 50)
    assert selection.threshold == 2.5
    assert selection.selected == ("a", "b")
    assert list(selection.reasons.items()) == [
        ("d", Reason.ABOVE_THRESHOLD),
        ("a", Reason.KEPT),
        ("none", Reason.NO_ANSWER),
        ("b", Reason.KEPT),
        ("nan", Reason.NO_ENTROPY),
        ("inf", Reason.NO_ENTROPY),
        ("c", Reason.ABOVE_THRESHOLD),
    ]


def test_the_labeled_rows_may_set_the_cut(judge: Judge) -> None:
    """Median of 1, 3, NaN without the NaN: 2."""
    selection = judge.select({"a": 2.0, "b": 2.1}, 50, threshold_entropies=[1.0, 3.0, math.nan])
    assert (selection.threshold, selection.selected) == (2.0, ("a",))


def test_no_labeled_entropies_are_as_none_given(judge: Judge) -> None:
    assert judge.select({"a": 1.0}, 50, threshold_entropies=[]).threshold == 1.0


def test_without_a_finite_entropy_there_is_no_cut_and_nothing_is_kept(judge: Judge) -> None:
    selection = judge.select({"a": None, "b": math.nan}, 50)
    assert (selection.threshold, selection.selected) == (None, ())
    assert judge.select({}, 50).reasons == {}


@pytest.mark.parametrize("theta", [-0.1, 100.5, math.nan])
def test_theta_is_a_percentile(judge: Judge, theta: float) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        judge.select({"a": 1.0}, theta)
    assert caught.value.field == "theta"


def test_labeled_entropies_of_which_none_is_finite_are_refused(judge: Judge) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        judge.select({"a": 1.0}, 50, threshold_entropies=[math.nan, math.inf])
    assert caught.value.field == "threshold_entropies"
