"""The embedding service as any client sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from semievol.client.embedding import EmbeddingClient
from semievol.common import errors
from semievol.common.limits import MAX_MESSAGE_BYTES
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.server import service
from semievol.embedding.settings import EmbeddingSettings
from semievol.embedding.v1 import embedding_service_pb2 as pb
from semievol.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from semievol.ports import NEVER, Cancel, FloatMatrix

from tests.grpc.stoppable import StoppableWork
from tests.running import running

NAME = "semievol.embedding.v1.EmbeddingService"


class SlowEmbedder(StoppableWork, FakeEmbedder):
    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        if texts[0] != "ready":
            self.work(cancel)
        return super().embed(texts)


class BrokenEmbedder(FakeEmbedder):
    """Has a bug."""

    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        if texts[0] != "ready":
            raise ZeroDivisionError("secret detail")
        return super().embed(texts)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(service(EmbeddingSettings(max_batch_count=4), FakeEmbedder())) as address:
        yield address


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> pb_grpc.EmbeddingServiceStub:
    return pb_grpc.EmbeddingServiceStub(channel)


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


def test_info_states_the_limits(stub: pb_grpc.EmbeddingServiceStub) -> None:
    info = stub.GetInfo(pb.GetInfoRequest())
    assert (info.model, info.dimension, info.max_batch_count) == ("fake", 64, 4)


def test_vectors_are_packed_little_endian_floats(stub: pb_grpc.EmbeddingServiceStub) -> None:
    response = stub.Embed(pb.EmbedRequest(texts=["a b", "c"]))
    assert [len(embedding.values) for embedding in response.embeddings] == [256, 256]
    decoded = np.frombuffer(response.embeddings[0].values, "<f4")
    np.testing.assert_array_equal(decoded, FakeEmbedder().embed(["a b"])[0])


def test_a_stream_answers_page_by_page_in_order(stub: pb_grpc.EmbeddingServiceStub) -> None:
    texts = [["a"], [], ["b", "c"]]
    responses = list(stub.EmbedStream(pb.EmbedStreamRequest(texts=page) for page in texts))
    assert [len(response.embeddings) for response in responses] == [1, 0, 2]
    assert responses[2].embeddings == stub.Embed(pb.EmbedRequest(texts=["b", "c"])).embeddings


def test_a_stream_ends_at_its_first_bad_page(stub: pb_grpc.EmbeddingServiceStub) -> None:
    responses = stub.EmbedStream(pb.EmbedStreamRequest(texts=page) for page in (["a"], ["b", ""], ["c"]))
    assert len(next(responses).embeddings) == 1
    with pytest.raises(grpc.RpcError) as caught:
        next(responses)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(caught.value) == "texts[1]"


@pytest.mark.parametrize(("texts", "field"), [(["a", ""], "texts[1]"), (["a"] * 5, "texts")])
def test_an_error_about_a_field_names_the_field(stub: pb_grpc.EmbeddingServiceStub, texts: list[str], field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(pb.EmbedRequest(texts=texts))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(caught.value) == field


def test_an_oversized_message_is_refused_with_its_limit(stub: pb_grpc.EmbeddingServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(pb.EmbedRequest(texts=["x" * (MAX_MESSAGE_BYTES + 1)]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


def test_a_client_that_goes_away_stops_the_work() -> None:
    embedder = SlowEmbedder()
    with running(service(EmbeddingSettings(), embedder)) as address, grpc.insecure_channel(address) as channel:
        call = pb_grpc.EmbeddingServiceStub(channel).Embed.future(pb.EmbedRequest(texts=["slow"]))
        assert embedder.started.wait(5)
        call.cancel()
        assert embedder.cancelled.wait(5)


def test_a_deadline_stops_the_work_and_is_told_as_such() -> None:
    embedder = SlowEmbedder()
    with running(service(EmbeddingSettings(), embedder)) as address:
        client = EmbeddingClient(address, deadline_s=0.5)
        with pytest.raises(errors.DeadlineExceeded):
            client.embed(["slow"])
        client.close()
        assert embedder.cancelled.wait(5)


def test_a_full_queue_says_when_to_come_back() -> None:
    embedder = SlowEmbedder()
    with running(service(EmbeddingSettings(max_waiting_count=0), embedder)) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        call = stub.Embed.future(pb.EmbedRequest(texts=["slow"]))
        assert embedder.started.wait(5)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Embed(pb.EmbedRequest(texts=["b"]))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in rpc_status.from_call(caught.value).details)
        call.cancel()


def test_a_bug_is_internal_with_a_request_id_and_nothing_of_the_exception() -> None:
    with running(service(EmbeddingSettings(), BrokenEmbedder())) as address:
        client = EmbeddingClient(address)
        with pytest.raises(errors.InternalError, match="request id") as caught:
            client.embed(["a"])
        client.close()
    assert "secret" not in caught.value.message


def test_a_service_that_is_not_there_is_unavailable_within_seconds() -> None:
    client = EmbeddingClient("127.0.0.1:1", deadline_s=5)
    started = time.monotonic()
    with pytest.raises(errors.Unavailable, match="is it running"):
        client.info()
    assert time.monotonic() - started < 10
    client.close()
