"""The generation service as any client sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from semievol.algorithm.types import Message
from semievol.client.generation import GenerationClient
from semievol.common import errors
from semievol.common.limits import MAX_MESSAGE_BYTES
from semievol.common.v1 import chat_pb2
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.server import service
from semievol.generation.settings import GenerationSettings
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import BASE_MODEL, NEVER, Cancel, ChatDelta, Generation, Prompt, Sampling, ScoreRequest

from tests.grpc.stoppable import StoppableWork
from tests.running import running

NAME = "semievol.generation.v1.GenerationService"


class SlowEngine(StoppableWork, FakeEngine):
    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        if prompts[0].id != "ready":
            self.work(cancel)
        return super().generate(model, prompts, sampling)

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        yield ChatDelta("first")
        self.work(cancel)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(service(GenerationSettings(), FakeEngine(max_model_tokens=64))) as address:
        yield address


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> pb_grpc.GenerationServiceStub:
    return pb_grpc.GenerationServiceStub(channel)


def ask(text: str, *seeds: int) -> pb.Prompt:
    return pb.Prompt(id=text[:8], messages=[chat_pb2.Message(role="user", content=text)], seeds=seeds)


def failure(call: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """(code, violated field or empty)."""
    status = rpc_status.from_call(call)
    assert status is not None
    bad = error_details_pb2.BadRequest()
    found = any(detail.Unpack(bad) for detail in status.details)
    return call.code(), bad.field_violations[0].field if found else ""


def test_it_is_serving_and_can_be_reflected(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=NAME)).status == health_pb2.HealthCheckResponse.SERVING
    assert NAME in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_zero_fields_take_their_defaults_and_every_reply_names_its_weights(stub: pb_grpc.GenerationServiceStub) -> None:
    response = stub.Generate(pb.GenerateRequest(prompts=[ask("hi")]))
    assert response.model.name == BASE_MODEL
    assert response.model.base == "fake"
    (completion,) = response.generations[0].completions
    assert completion.text.startswith("Answer: ")
    assert completion.finish_reason == pb.FINISH_REASON_STOP
    assert [token.text for token in completion.tokens] == ["Answer:", completion.text[7:]]
    assert stub.Score(pb.ScoreRequest(items=[])).model.name == BASE_MODEL
    assert [model.name for model in stub.ListModels(pb.ListModelsRequest()).models] == [BASE_MODEL]


def test_a_chat_streams_pieces_and_ends_with_a_reason(stub: pb_grpc.GenerationServiceStub) -> None:
    pieces = list(stub.Chat(pb.ChatRequest(prompt=ask("hi"))))
    assert [piece.finish_reason for piece in pieces] == [0, 0, pb.FINISH_REASON_STOP]
    assert all(piece.model.name == BASE_MODEL for piece in pieces)
    assert pieces[-1].prompt_token_count > 0


def test_every_reply_carries_its_mean_negative_log_likelihood(stub: pb_grpc.GenerationServiceStub) -> None:
    """Of two tokens half the sum; of a stream on its last piece, for all its tokens; of a reply without tokens there is none."""
    (completion,) = stub.Generate(pb.GenerateRequest(prompts=[ask("hi")])).generations[0].completions
    assert completion.mean_nll == pytest.approx(-(completion.tokens[0].logprob + completion.tokens[1].logprob) / 2, abs=1e-12)
    pieces = list(stub.Chat(pb.ChatRequest(prompt=ask("hi"))))
    assert [piece.HasField("mean_nll") for piece in pieces] == [False, False, True]
    assert pieces[-1].mean_nll == completion.mean_nll
    stop = pb.Sampling(stop=["A"])
    (empty,) = stub.Generate(pb.GenerateRequest(prompts=[ask("hi")], sampling=stop)).generations[0].completions
    assert (empty.text, empty.HasField("mean_nll")) == ("", False)


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.GenerateRequest(model="x", prompts=[ask("a")]), grpc.StatusCode.NOT_FOUND, "model"),
        (pb.GenerateRequest(prompts=[ask("a"), pb.Prompt()]), grpc.StatusCode.INVALID_ARGUMENT, "prompts[1].messages"),
        (pb.GenerateRequest(prompts=[ask("a " * 100)]), grpc.StatusCode.INVALID_ARGUMENT, "prompts[0]"),
        (pb.GenerateRequest(prompts=[ask("a", 1, 2)]), grpc.StatusCode.INVALID_ARGUMENT, "prompts[0].seeds"),
        (pb.GenerateRequest(prompts=[ask("a")] * 1025), grpc.StatusCode.INVALID_ARGUMENT, "prompts"),
        (
            pb.GenerateRequest(prompts=[ask("a")], sampling=pb.Sampling(temperature=3)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "sampling.temperature",
        ),
    ],
)
def test_an_error_about_a_field_names_the_field(
    stub: pb_grpc.GenerationServiceStub, request_: pb.GenerateRequest, code: grpc.StatusCode, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Generate(request_)
    assert failure(caught.value) == (code, field)


def test_adapter_errors_name_their_field(stub: pb_grpc.GenerationServiceStub) -> None:
    for request, field in (
        (pb.LoadAdapterRequest(name="a b", uri="artifact:" + "0" * 64), "name"),
        (pb.LoadAdapterRequest(name="a", uri="artifact:" + "0" * 64), "uri"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.LoadAdapter(request)
        assert failure(caught.value)[1] == field
    with pytest.raises(grpc.RpcError) as caught:
        stub.UnloadAdapter(pb.UnloadAdapterRequest(name="base"))
    assert failure(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, "name")


def test_an_oversized_message_is_refused_with_its_limit(stub: pb_grpc.GenerationServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Generate(pb.GenerateRequest(prompts=[ask("x" * (MAX_MESSAGE_BYTES + 1))]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_long_inputs_travel_in_pages_and_errors_name_the_place_in_the_whole(address: str) -> None:
    client = GenerationClient(address)
    prompts = [Prompt(str(i), (Message("user", f"question {i}"),)) for i in range(2500)]
    generations = client.generate(BASE_MODEL, prompts, Sampling())
    assert [one.id for one in generations] == [prompt.id for prompt in prompts]
    too_long = Prompt("culprit", (Message("user", "a " * 100),))
    with pytest.raises(errors.InvalidInput, match="culprit") as caught:
        client.generate(BASE_MODEL, [*prompts[:2000], too_long], Sampling())
    assert caught.value.field == "prompts[2000]"
    scores = client.score(BASE_MODEL, [ScoreRequest(p.id, p.messages, "yes") for p in prompts[:1500]])
    assert len(scores) == 1500
    client.close()


def test_a_client_that_goes_away_stops_the_work() -> None:
    engine = SlowEngine()
    with running(service(GenerationSettings(), engine)) as address, grpc.insecure_channel(address) as channel:
        call = pb_grpc.GenerationServiceStub(channel).Generate.future(pb.GenerateRequest(prompts=[ask("slow")]))
        assert engine.started.wait(5)
        call.cancel()
        assert engine.cancelled.wait(5)


def test_a_reader_that_leaves_a_stream_stops_the_model() -> None:
    engine = SlowEngine()
    with running(service(GenerationSettings(), engine)) as address:
        client = GenerationClient(address)
        stream = client.chat(BASE_MODEL, Prompt("a", (Message("user", "hi"),)), Sampling())
        assert next(stream).text == "first"
        assert engine.started.wait(5)
        stream.close()  # type: ignore[attr-defined]
        assert engine.cancelled.wait(5)
        client.close()


def test_a_deadline_stops_the_work_and_is_told_as_such() -> None:
    engine = SlowEngine()
    with running(service(GenerationSettings(), engine)) as address:
        client = GenerationClient(address, deadline_s=0.5)
        with pytest.raises(errors.DeadlineExceeded):
            client.generate(BASE_MODEL, [Prompt("a", (Message("user", "hi"),))], Sampling())
        client.close()
        assert engine.cancelled.wait(5)


def test_an_engine_that_cannot_answer_is_not_served() -> None:
    with pytest.raises(errors.Unavailable), running(service(GenerationSettings(), FakeEngine(fails_after=0))):
        pass
