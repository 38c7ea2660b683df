"""The generation service as a `Generator`, a `Scorer` and an `AdapterHost`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from semievol.client.paging import pages
from semievol.common import errors
from semievol.common.grpc_client import Caller
from semievol.common.limits import MAX_PAGE_ROWS
from semievol.generation import core, wire
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import (
    NEVER,
    Cancel,
    ChatDelta,
    Generation,
    ModelInfo,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
)

_INDEX = re.compile(r"^(prompts|items)\[(\d+)\]")
_PAGE_REPLY_TOKENS = (
    1_000_000  # most tokens in a page of replies, possible ones included: with text and log-probability below 20 bytes each
)
M = TypeVar("M", pb.Prompt, pb.ScoreItem)


class GenerationClient:
    """Safe to share between threads. `close` it.

    A page is as large as the limits allow: the server forms batches of like length within a page.
    """

    def __init__(self, address: str, *, deadline_s: float = 3600.0) -> None:
        self._caller = Caller(
            "generation", address, deadline_s=deadline_s
        )  # a page of long replies may take half an hour on a CPU
        self._stub = pb_grpc.GenerationServiceStub(self._caller.channel)

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        core.check_prompts(prompts, sampling)
        wanted = wire.sampling_message(sampling)

        def send(page: Sequence[pb.Prompt]) -> list[Generation]:
            request = pb.GenerateRequest(model=model, prompts=page, sampling=wanted)
            response: pb.GenerateResponse = self._caller.unary(self._stub.Generate, request, cancel=cancel)
            return [wire.generation(one) for one in response.generations]

        page_rows = max(1, _PAGE_REPLY_TOKENS // (sampling.n * sampling.max_tokens * (1 + sampling.top_logprobs)))
        return _paged([wire.prompt_message(one) for one in prompts], send, page_rows)

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        core.check_chat(prompt, sampling)
        core.check_cancel(cancel)
        request = pb.ChatRequest(model=model, prompt=wire.prompt_message(prompt), sampling=wire.sampling_message(sampling))
        for response in self._caller.stream(self._stub.Chat, request):
            core.check_cancel(cancel)
            yield wire.delta(response)

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        core.check_score(requests)

        def send(page: Sequence[pb.ScoreItem]) -> list[Score]:
            request = pb.ScoreRequest(model=model, items=page)
            response: pb.ScoreResponse = self._caller.unary(self._stub.Score, request, cancel=cancel)
            return [wire.score(one) for one in response.results]

        return _paged([wire.score_item(one) for one in requests], send, MAX_PAGE_ROWS)

    def models(self) -> list[ModelInfo]:
        return [wire.model_info(one) for one in self._list_models().models]

    def server(self) -> str:
        return self._list_models().server

    def _list_models(self) -> pb.ListModelsResponse:
        response: pb.ListModelsResponse = self._caller.unary(self._stub.ListModels, pb.ListModelsRequest())
        return response

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        request = pb.LoadAdapterRequest(name=name, uri=uri)
        response: pb.LoadAdapterResponse = self._caller.unary(self._stub.LoadAdapter, request)
        return wire.model_info(response.model)

    def unload_adapter(self, name: str) -> None:
        self._caller.unary(self._stub.UnloadAdapter, pb.UnloadAdapterRequest(name=name))

    def close(self) -> None:
        self._caller.close()


def _paged(messages: Sequence[M], send: Callable[[Sequence[M]], list[Any]], page_rows: int) -> list[Any]:
    """The answers to all pages. An error that names a place in a page is made to name the place in the whole input."""
    answers: list[Any] = []
    for page in pages(messages, lambda message: message.ByteSize(), min(page_rows, MAX_PAGE_ROWS)):
        try:
            answers += send(page)
        except errors.InvalidInput as error:
            if error.field and (match := _INDEX.match(error.field)):
                error.field = f"{match[1]}[{int(match[2]) + len(answers)}]{error.field[match.end() :]}"
            raise
    return answers
