"""Generation and embedding as a server on an event loop calls them: nothing blocks, a task that is cancelled cancels its call, nothing is retried.

Errors are those of the blocking clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from semievol.client.embedding import PAGE_TEXTS
from semievol.client.paging import pages
from semievol.common.grpc_client import AsyncCaller
from semievol.embedding import core as embedding_core
from semievol.embedding import wire as embedding_wire
from semievol.embedding.v1 import embedding_service_pb2 as embedding_pb
from semievol.embedding.v1 import embedding_service_pb2_grpc as embedding_grpc
from semievol.generation import core, wire
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import ChatDelta, EmbedderInfo, FloatMatrix, Generation, ModelInfo, Prompt, Sampling

_HEALTH_DEADLINE_S = 2.0


class AsyncGenerationClient:
    """A generation service, an engine or whatever speaks for several. Made on the event loop that it is used on. `close` it."""

    def __init__(self, address: str, *, deadline_s: float = 3600.0) -> None:
        self._caller = AsyncCaller("generation", address, deadline_s=deadline_s)
        channel: Any = self._caller.channel
        self._stub: Any = pb_grpc.GenerationServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)

    async def generate(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, routing_key: str = ""
    ) -> tuple[list[Generation], ModelInfo]:
        """[n] prompts, at most 1024, in one call -> n generations, in input order, and whose they are."""
        core.check_prompts(prompts, sampling)
        messages = [wire.prompt_message(one) for one in prompts]
        sampling_message = wire.sampling_message(sampling)
        request = pb.GenerateRequest(model=model, prompts=messages, sampling=sampling_message, routing_key=routing_key)
        response: pb.GenerateResponse = await self._caller.unary(self._stub.Generate, request)
        return [wire.generation(one) for one in response.generations], wire.model_info(response.model)

    async def chat(
        self, model: str, prompt: Prompt, sampling: Sampling, *, routing_key: str = ""
    ) -> AsyncGenerator[tuple[ChatDelta, ModelInfo]]:
        """Streams one reply, every piece with whose it is. Closing the iterator stops the model."""
        core.check_chat(prompt, sampling)
        request = pb.ChatRequest(
            model=model, prompt=wire.prompt_message(prompt), sampling=wire.sampling_message(sampling), routing_key=routing_key
        )
        info: ModelInfo | None = None  # the same for all of a reply
        async with aclosing(self._caller.stream(self._stub.Chat, request)) as responses:
            async for response in responses:
                info = info or wire.model_info(response.model)
                yield wire.delta(response), info

    async def models(self) -> list[ModelInfo]:
        response: pb.ListModelsResponse = await self._caller.unary(self._stub.ListModels, pb.ListModelsRequest())
        return [wire.model_info(one) for one in response.models]

    async def serving(self) -> bool:
        """What the service says of itself (R12). Raises Unavailable, DeadlineExceeded where it says nothing."""
        request = health_pb2.HealthCheckRequest()
        answer = await self._caller.unary(self._health.Check, request, deadline_s=_HEALTH_DEADLINE_S)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        await self._caller.close()


class AsyncEmbeddingClient:
    """An embedding service. Made on the event loop that it is used on. `close` it."""

    def __init__(self, address: str, *, deadline_s: float = 600.0) -> None:
        self._caller = AsyncCaller("embedding", address, deadline_s=deadline_s)
        channel: Any = self._caller.channel
        self._stub: Any = embedding_grpc.EmbeddingServiceStub(channel)
        self._limits: embedding_pb.GetInfoResponse | None = None  # as they were told last

    async def info(self) -> EmbedderInfo:
        """Asked anew each time: another model may be served since."""
        return embedding_wire.embedder_info(await self._get_info())

    async def embed(self, texts: Sequence[str]) -> FloatMatrix:
        """[n] texts -> [n, d], in input order. They travel longest first, in pages of texts of like length."""
        embedding_core.check_texts(texts)
        limits = self._limits or await self._get_info()
        matrix = np.empty((len(texts), limits.dimension), dtype=np.float32)
        page_texts = min(PAGE_TEXTS, limits.max_batch_count)
        for page in pages(embedding_core.longest_first(texts), lambda i: len(texts[i].encode()), page_texts):
            request = embedding_pb.EmbedRequest(texts=[texts[i] for i in page])
            response: embedding_pb.EmbedResponse = await self._caller.unary(self._stub.Embed, request)
            matrix[list(page)] = embedding_wire.matrix(response.embeddings)
        return matrix

    async def close(self) -> None:
        await self._caller.close()

    async def _get_info(self) -> embedding_pb.GetInfoResponse:
        response: embedding_pb.GetInfoResponse = await self._caller.unary(self._stub.GetInfo, embedding_pb.GetInfoRequest())
        self._limits = response
        return response
