"""The judging service as any client sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from semievol.client.generation import GenerationClient
from semievol.client.judging import JudgingClient
from semievol.common import errors
from semievol.common.limits import MAX_MESSAGE_BYTES, MAX_PAGE_ROWS
from semievol.common.v1 import task_pb2
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.server import service as generation_service
from semievol.generation.settings import GenerationSettings
from semievol.judging.server import service
from semievol.judging.settings import JudgingSettings
from semievol.judging.v1 import judging_service_pb2 as pb
from semievol.judging.v1 import judging_service_pb2_grpc as pb_grpc
from semievol.ports import NEVER, Cancel, Generation, Prompt, Sampling

from tests.grpc.stoppable import StoppableWork
from tests.running import running
from tests.scripted import ScriptedGenerator

NAME = "semievol.judging.v1.JudgingService"
OPTIONS = ["Roads", "Water", "Parks"]


class SlowGenerator(StoppableWork, ScriptedGenerator):
    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        if prompts[0].id != "ready":
            self.work(cancel)
        return super().generate(model, prompts, sampling)


class DeadGenerator(ScriptedGenerator):
    """Generation is down."""

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        raise errors.Unavailable("The generation service at 127.0.0.1:1 does not answer.")


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator(lambda prompt: "Answer: B")


@pytest.fixture
def channel(generator: ScriptedGenerator) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with running(service(JudgingSettings(), generator)) as address, grpc.insecure_channel(address, options=options) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> pb_grpc.JudgingServiceStub:
    return pb_grpc.JudgingServiceStub(channel)


def disputed(**first: object) -> pb.JudgeItem:
    """A row whose second candidate says B, and whose first is as given (else it says A)."""
    fields = first or {"text": "Answer: A", "answer": "A"}
    return pb.JudgeItem(
        row=task_pb2.Row(id="r", question="Where?", options=OPTIONS),
        candidates=[pb.Candidate(collaborator="base-0", **fields), pb.Candidate(collaborator="warm-1", answer="B")],
    )


def violated_field(error: grpc.RpcError) -> str:
    status = rpc_status.from_call(error)
    bad = error_details_pb2.BadRequest()
    assert status is not None
    assert any(detail.Unpack(bad) for detail in status.details)
    return bad.field_violations[0].field


def test_it_is_serving_and_can_be_reflected(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=NAME)).status == health_pb2.HealthCheckResponse.SERVING
    assert NAME in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_serving_means_that_a_verdict_was_reached(generator: ScriptedGenerator, channel: grpc.Channel) -> None:
    (model, prompts, sampling), *_ = generator.calls
    assert (model, [prompt.id for prompt in prompts], sampling.max_tokens) == ("base", ["ready"], 1)


def test_without_generation_the_service_does_not_start() -> None:
    with pytest.raises(errors.Unavailable, match="generation"), running(service(JudgingSettings(), DeadGenerator())):
        pass


def test_what_is_not_set_has_its_stated_default(generator: ScriptedGenerator, stub: pb_grpc.JudgingServiceStub) -> None:
    """No model: base. No task: a choice, asked for by letter. No max_tokens: 128."""
    response = stub.Judge(pb.JudgeRequest(items=[disputed()]))
    assert response.verdicts[0].decision == pb.DECISION_JUDGED
    model, prompts, sampling = generator.calls[-1]
    assert (model, sampling) == ("base", Sampling(max_tokens=128))
    assert "A. Roads" in prompts[0].messages[-1].content


def test_max_tokens_reaches_the_model(generator: ScriptedGenerator, stub: pb_grpc.JudgingServiceStub) -> None:
    stub.Judge(pb.JudgeRequest(items=[disputed()], max_tokens=7))
    assert generator.calls[-1][2].max_tokens == 7


def test_a_candidate_with_its_text_alone_is_parsed(stub: pb_grpc.JudgingServiceStub) -> None:
    response = stub.Judge(pb.JudgeRequest(items=[disputed(text="I would say:\n**Answer:** (B) Water")]))
    assert response.verdicts[0].decision == pb.DECISION_UNANIMOUS
    assert response.verdicts[0].answer == "B"


def test_a_candidate_with_a_text_that_says_nothing_has_no_vote(stub: pb_grpc.JudgingServiceStub) -> None:
    response = stub.Judge(pb.JudgeRequest(items=[disputed(text="Hello there")]))
    assert response.verdicts[0].decision == pb.DECISION_JUDGED
    assert "Hello there" not in response.verdicts[0].transcript[0].content
    assert response.verdicts[0].agreement == 0.5


def test_a_row_that_nobody_answered_comes_back_without_an_answer(stub: pb_grpc.JudgingServiceStub) -> None:
    item = disputed(no_answer=pb.NO_ANSWER_EMPTY)
    del item.candidates[1]
    verdict = stub.Judge(pb.JudgeRequest(items=[item])).verdicts[0]
    assert (verdict.decision, verdict.answer, verdict.response) == (pb.DECISION_NONE, "", "")


BAD = {
    "max_tokens": pb.JudgeRequest(items=[disputed()], max_tokens=-1),
    "task.type": pb.JudgeRequest(items=[disputed()], task=task_pb2.Task(type=99)),
    "task.answer": pb.JudgeRequest(items=[disputed()], task=task_pb2.Task(answer=99)),
    "items": pb.JudgeRequest(items=[disputed()] * (MAX_PAGE_ROWS + 1)),
    "items[1].row.id": pb.JudgeRequest(items=[disputed(), disputed()]),
    "items[0].candidates[0].no_answer": pb.JudgeRequest(items=[disputed(no_answer=99)]),
    "items[0].candidates[0].answer": pb.JudgeRequest(items=[disputed(answer="A", no_answer=pb.NO_ANSWER_EMPTY)]),
}


@pytest.mark.parametrize("field", BAD)
def test_an_error_about_a_field_names_the_field(stub: pb_grpc.JudgingServiceStub, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Judge(BAD[field])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(caught.value) == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SelectRequest(theta=101), "theta"),
        (pb.SelectRequest(theta=50, rows=[pb.RowEntropy(row_id="a"), pb.RowEntropy(row_id="a")]), "rows[1].row_id"),
        (pb.SelectRequest(theta=50, rows=[pb.RowEntropy()]), "rows[0].row_id"),
        (pb.SelectRequest(theta=50, threshold_entropies=[float("nan")]), "threshold_entropies"),
    ],
)
def test_a_bad_selection_names_the_field(stub: pb_grpc.JudgingServiceStub, request_: pb.SelectRequest, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Select(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(caught.value) == field


def test_a_selection_of_nothing_has_no_threshold(stub: pb_grpc.JudgingServiceStub) -> None:
    assert not stub.Select(pb.SelectRequest(theta=50)).HasField("threshold")


def test_zero_is_an_entropy_and_not_set_is_none(stub: pb_grpc.JudgingServiceStub) -> None:
    response = stub.Select(pb.SelectRequest(theta=0, rows=[pb.RowEntropy(row_id="b", entropy=0.0), pb.RowEntropy(row_id="a")]))
    assert [(one.row_id, one.reason) for one in response.reasons] == [("b", pb.REASON_KEPT), ("a", pb.REASON_NO_ANSWER)]
    assert response.threshold == 0.0


def test_an_oversized_message_is_refused_with_its_limit(stub: pb_grpc.JudgingServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Judge(pb.JudgeRequest(items=[disputed(text="x" * (MAX_MESSAGE_BYTES + 1))]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


def test_the_client_refuses_a_selection_that_no_call_can_carry() -> None:
    client = JudgingClient("127.0.0.1:1")
    with pytest.raises(errors.InvalidInput) as caught:
        client.select({f"{i:>{MAX_MESSAGE_BYTES // 4}}": 1.0 for i in range(4)}, 50)
    client.close()
    assert caught.value.field == "rows"


def test_a_client_that_goes_away_stops_the_judging_model() -> None:
    generator = SlowGenerator()
    with running(service(JudgingSettings(), generator)) as address, grpc.insecure_channel(address) as channel:
        call = pb_grpc.JudgingServiceStub(channel).Judge.future(pb.JudgeRequest(items=[disputed()]))
        assert generator.started.wait(5)
        call.cancel()
        assert generator.cancelled.wait(5)


def test_an_unknown_model_is_not_found(stub: pb_grpc.JudgingServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Judge(pb.JudgeRequest(model="nobody", items=[disputed()]))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "warm" in caught.value.details()


def fake_generation() -> FakeEngine:
    return FakeEngine(lambda model, messages, seed: "Answer: C")


def test_the_judging_model_answers_through_the_generation_service() -> None:
    with running(generation_service(GenerationSettings(), fake_generation())) as generation_address:
        generator = GenerationClient(generation_address)
        with running(service(JudgingSettings(), generator)) as address, grpc.insecure_channel(address) as channel:
            response = pb_grpc.JudgingServiceStub(channel).Judge(pb.JudgeRequest(items=[disputed()]))
        generator.close()
    assert (response.verdicts[0].decision, response.verdicts[0].answer) == (pb.DECISION_JUDGED, "C")


def test_the_room_runs_alone_and_ends_on_sigterm() -> None:
    with running(generation_service(GenerationSettings(), fake_generation())) as generation_address:
        environment = {
            **os.environ,
            "SEMIEVOL_JUDGING_ADDRESS": "127.0.0.1:0",
            "SEMIEVOL_JUDGING_GENERATION_ADDRESS": generation_address,
        }
        command = [sys.executable, "-m", "semievol.judging.server"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            log = next(line for line in process.stderr if "serves at" in line)
            with grpc.insecure_channel(log.split()[-1]) as channel:
                response = pb_grpc.JudgingServiceStub(channel).Judge(pb.JudgeRequest(items=[disputed()]))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert response.verdicts[0].answer == "C"
