"""semievol.generation.v1.GenerationService in front of engines: messages pass through, and say which model answered and how sure it was."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from semievol.algorithm.statistics import percent_at_least
from semievol.client.engine import EngineClient
from semievol.common import errors
from semievol.common.grpc_server import Context
from semievol.common.v1 import chat_pb2
from semievol.generation import wire
from semievol.generation.router.catalog import Wanted
from semievol.generation.router.core import Router
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc

_ADAPTERS = "A router loads and unloads adapters itself: name a registered model or an alias in `model`."


class RouterServicer(pb_grpc.GenerationServiceServicer):
    """`deadline_s`: for calls whose client set none."""

    def __init__(self, router: Router[EngineClient], deadline_s: float) -> None:
        self._router = router
        self._deadline_s = deadline_s

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        response: pb.GenerateResponse
        wanted, response = await self._unary("Generate", request, context)
        for generation in response.generations:
            for completion in generation.completions:
                _compare(completion, wanted)
        return response

    async def Chat(self, request: pb.ChatRequest, context: Context) -> AsyncIterator[pb.ChatResponse]:
        deadline_s = self._left(context)

        async def start(engine: EngineClient, model: str) -> AsyncGenerator[pb.ChatResponse, None]:
            request.model = model
            async with aclosing(engine.stream("Chat", request, deadline_s)) as pieces:
                async for piece in pieces:
                    yield piece

        async with aclosing(self._router.stream(request.model, request.routing_key, deadline_s, start)) as replies:
            async for wanted, piece in replies:
                _name(piece.model, wanted)
                _compare(piece, wanted)
                yield piece

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        response: pb.ScoreResponse
        _, response = await self._unary("Score", request, context)
        return response

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=map(wire.identity, await self._router.models()))

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Context) -> pb.LoadAdapterResponse:
        raise errors.NotSupported(_ADAPTERS)

    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: Context) -> pb.UnloadAdapterResponse:
        raise errors.NotSupported(_ADAPTERS)

    async def _unary(self, method: str, request: Any, context: Context) -> tuple[Wanted, Any]:
        name, deadline_s = request.model, self._left(context)

        async def send(engine: EngineClient, model: str) -> Any:
            request.model = model
            return await engine.unary(method, request, deadline_s)

        wanted, response = await self._router.call(name, request.routing_key, deadline_s, send)
        _name(response.model, wanted)
        return wanted, response

    def _left(self, context: Context) -> float:
        """Seconds until nobody waits for the answer any more."""
        left = context.time_remaining()
        return self._deadline_s if left is None else min(left, self._deadline_s)


def _name(identity: chat_pb2.ModelIdentity, wanted: Wanted) -> None:
    """The names that the router's clients know; the rest is the engine's word."""
    identity.name, identity.alias = wanted.name, wanted.alias


def _compare(reply: pb.Completion | pb.ChatResponse, wanted: Wanted) -> None:
    """`confidence`, where the reply has tokens and the model a record of what it learned from."""
    if reply.HasField("mean_nll") and wanted.model and wanted.model.selected_entropies:
        reply.confidence = percent_at_least(wanted.model.selected_entropies, reply.mean_nll)
