"""semievol.generation.v1.GenerationService: messages in, messages out; the work is the engine's."""

from __future__ import annotations

from collections.abc import AsyncIterator

from semievol.common import errors
from semievol.common.grpc_server import Context, Workers
from semievol.common.limits import MAX_PAGE_ROWS
from semievol.generation import core, wire
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import Fronted


class GenerationServicer(pb_grpc.GenerationServiceServicer):
    def __init__(self, engine: core.Engine, workers: Workers) -> None:
        self._engine = engine
        self._workers = workers

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        _check_count(len(request.prompts), "prompts")
        model = core.find_model(self._engine.models(), wire.model_name(request.model))
        prompts, sampling = [wire.prompt(one) for one in request.prompts], wire.sampling(request.sampling)
        generations = await self._workers.run_cancellable(self._engine.generate, model.name, prompts, sampling)
        return pb.GenerateResponse(generations=map(wire.generation_message, generations), model=wire.identity(model))

    async def Chat(self, request: pb.ChatRequest, context: Context) -> AsyncIterator[pb.ChatResponse]:
        model = core.find_model(self._engine.models(), wire.model_name(request.model))
        prompt, sampling = wire.prompt(request.prompt), wire.sampling(request.sampling)
        logprobs: list[float] = []
        async for delta in self._workers.stream(self._engine.chat, model.name, prompt, sampling):
            yield wire.delta_message(delta, model, logprobs)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        _check_count(len(request.items), "items")
        model = core.find_model(self._engine.models(), wire.model_name(request.model))
        items = [wire.score_request(one) for one in request.items]
        scores = await self._workers.run_cancellable(self._engine.score, model.name, items)
        return pb.ScoreResponse(results=map(wire.score_message, scores), model=wire.identity(model))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        server = self._engine.server() if isinstance(self._engine, Fronted) else ""
        return pb.ListModelsResponse(models=map(wire.identity, self._engine.models()), server=server)

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Context) -> pb.LoadAdapterResponse:
        model = await self._workers.run(self._engine.load_adapter, request.name, request.uri)
        return pb.LoadAdapterResponse(model=wire.identity(model))

    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: Context) -> pb.UnloadAdapterResponse:
        await self._workers.run(self._engine.unload_adapter, request.name)
        return pb.UnloadAdapterResponse()


def _check_count(count: int, field: str) -> None:
    if count > MAX_PAGE_ROWS:
        raise errors.InvalidInput(
            f"{count} {field} in one call; at most {MAX_PAGE_ROWS} are taken. Send them in pages.", field=field
        )
