"""Services whose work is done by a server elsewhere: their health follows that server (R12), and their errors name it."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from semievol.algorithm.types import Message
from semievol.client.embedding import EmbeddingClient
from semievol.client.generation import GenerationClient
from semievol.common import errors
from semievol.embedding import server as embedding
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.settings import EmbeddingSettings
from semievol.generation import server as generation
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.settings import GenerationSettings
from semievol.ports import BASE_MODEL, Prompt, Sampling

from tests.running import running
from tests.servers.openai_api import OpenAIDouble
from tests.servers.tei import TeiDouble

EMBEDDING, GENERATION = "semievol.embedding.v1.EmbeddingService", "semievol.generation.v1.GenerationService"
QUICK = 0.05


def serves(address: str, service: str) -> Callable[[], bool]:
    def ask() -> bool:
        with grpc.insecure_channel(address) as channel:
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return response.status == health_pb2.HealthCheckResponse.SERVING

    return ask


def soon(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_health_follows_an_embedding_server() -> None:
    with TeiDouble(FakeEmbedder()).running() as server:
        settings = EmbeddingSettings(model=server.url, check_every_s=QUICK)
        with running(embedding.service(settings)) as address:
            healthy, all_healthy = serves(address, EMBEDDING), serves(address, "")
            assert healthy()
            server.healthy = False  # it runs, and its model does not
            assert soon(lambda: not healthy() and not all_healthy())
            server.healthy = True
            assert soon(lambda: healthy() and all_healthy())
            server.die()
            assert soon(lambda: not healthy())
            server.start()
            assert soon(healthy)
            server.info["model_id"] = "another"
            assert soon(lambda: not healthy())


def test_health_follows_an_endpoint() -> None:
    with OpenAIDouble(FakeEngine()).running() as server:
        settings = GenerationSettings(endpoint=server.endpoint, endpoint_only=True, model="fake", check_every_s=QUICK)
        with running(generation.service(settings)) as address:
            healthy = serves(address, GENERATION)
            assert healthy()
            server.names = ["another"]
            assert soon(lambda: not healthy())
            server.names = ["fake"]
            assert soon(healthy)


def test_an_embedding_server_that_is_gone_is_named_through_the_service() -> None:
    with (
        TeiDouble(FakeEmbedder()).running() as server,
        running(embedding.service(EmbeddingSettings(model=server.url))) as address,
    ):
        client = EmbeddingClient(address)
        client.info()
        server.info["model_id"] = "another"
        with pytest.raises(errors.Conflict, match=f"{server.url} has got another model") as caught:
            client.embed(["a"])
        assert caught.value.field == "embedding"
        client.close()


def test_an_endpoints_refusal_reaches_the_caller_with_its_words() -> None:
    with (
        OpenAIDouble(FakeEngine(max_model_tokens=40)).running() as server,
        running(generation.service(GenerationSettings(endpoint=server.endpoint, endpoint_only=True, model="fake"))) as address,
    ):
        client = GenerationClient(address)
        with pytest.raises(errors.InvalidInput, match="'row 3' is too long") as caught:
            client.generate(BASE_MODEL, [Prompt("row 3", (Message("user", "long " * 50),))], Sampling())
        assert (caught.value.field or "").endswith(".messages")
        client.close()


def test_a_service_does_not_start_without_its_server() -> None:
    with pytest.raises(errors.Unavailable, match="is it running"):
        embedding.service(EmbeddingSettings(model="http://127.0.0.1:1"))
    with pytest.raises(errors.Unavailable, match="is it running"):
        generation.service(GenerationSettings(endpoint="http://127.0.0.1:1/v1", model="fake"))
