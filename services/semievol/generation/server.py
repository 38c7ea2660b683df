"""Composition root of the generation service."""

from __future__ import annotations

import asyncio
from typing import Any

from semievol.algorithm.types import Message
from semievol.common.artifacts import Artifacts
from semievol.common.endpoints import Remote
from semievol.common.grpc_server import Service, Workers
from semievol.common.openai_client import api_key
from semievol.common.serving import serve
from semievol.common.stores import open_store
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.backends.openai import OpenAIEngine
from semievol.generation.backends.split import SplitEngine
from semievol.generation.backends.vllm_options import VllmOptions
from semievol.generation.core import Engine
from semievol.generation.servicer import GenerationServicer
from semievol.generation.settings import GenerationSettings
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import BASE_MODEL, Prompt, Sampling

_DEDICATED_ENGINES = 3  # base, warm, evolved
_VLLM_CHECK_S = 1.0  # it costs nothing
_READY = Prompt("ready", (Message("user", "Are you ready?"),))


def engine(settings: GenerationSettings) -> Engine:
    """The backend that the settings name, its weights loaded. Raises as the backend's constructor."""
    if settings.backend == "openai" or (settings.backend == "auto" and settings.endpoint):
        endpoint = _endpoint(settings)
        return endpoint if settings.endpoint_only else _split(endpoint, settings)
    if settings.backend == "fake":
        return FakeEngine(artifacts=Artifacts(open_store(settings.store)), cache=settings.cache, base=settings.model)
    return _vllm(settings) if settings.backend == "vllm" else _transformers(settings)


def _endpoint(settings: GenerationSettings) -> OpenAIEngine:
    return OpenAIEngine(
        settings.endpoint,
        settings.model,
        artifacts=Artifacts(open_store(settings.store)),
        api_key=api_key(settings.endpoint),
        timeout_s=settings.timeout_s,
        parallel_calls=settings.parallel_calls or 8,
    )


def _split(endpoint: OpenAIEngine, settings: GenerationSettings) -> SplitEngine:
    from semievol.common.models import resolve_model
    from semievol.generation.backends.weights import number_format

    numbers = number_format(settings.device, settings.precision, settings.adapter_mode)
    local = resolve_model(settings.model, settings.cache)
    return SplitEngine(endpoint, lambda: _transformers(settings), local.sha256, f"transformers/{numbers}")


def _transformers(settings: GenerationSettings) -> Engine:
    from semievol.generation.backends.transformers import TransformersEngine

    return TransformersEngine(settings.model, batch_tokens=settings.batch_tokens, **_of_weights(settings))


def _vllm(settings: GenerationSettings) -> Engine:
    from semievol.generation.backends.vllm import VllmEngine

    return VllmEngine(settings.model, options=_options(settings), **_of_weights(settings))


def _of_weights(settings: GenerationSettings) -> dict[str, Any]:
    """What an engine that holds weights is told, whichever it is."""
    return {
        "artifacts": Artifacts(open_store(settings.store)),
        "cache": settings.cache,
        "device": settings.device,
        "precision": settings.precision,
        "adapter_mode": settings.adapter_mode,
        "merged_models": settings.merged_models,
    }


def _options(settings: GenerationSettings) -> VllmOptions:
    options = VllmOptions()
    engines = {"auto": options.engines, "shared": 1, "dedicated": max(options.engines, _DEDICATED_ENGINES)}
    return options.model_copy(update={"engines": engines[settings.placement]})


def service(settings: GenerationSettings, backend: Engine | None = None) -> Service:
    """The service around `backend`, or around the one that the settings name."""
    backend = backend or engine(settings)
    elsewhere = backend if isinstance(backend, Remote) else None  # vLLM's core is in other processes, too
    workers = Workers("generation", _parallel_calls(settings) if elsewhere else 1, settings.max_waiting_count)
    servicer = GenerationServicer(backend, workers)

    async def probe() -> None:
        await workers.run(backend.generate, BASE_MODEL, [_READY], Sampling(max_tokens=1))

    async def check() -> None:
        if elsewhere:
            await asyncio.to_thread(elsewhere.check)

    async def close() -> None:
        await asyncio.to_thread(workers.close)
        if elsewhere:
            elsewhere.close()

    return Service(
        name=pb.DESCRIPTOR.services_by_name["GenerationService"].full_name,
        register=lambda server: pb_grpc.add_GenerationServiceServicer_to_server(servicer, server),
        probe=probe,
        close=close,
        check=check if elsewhere else None,
        check_every_s=min(settings.check_every_s, _VLLM_CHECK_S) if settings.backend == "vllm" else settings.check_every_s,
    )


def _parallel_calls(settings: GenerationSettings) -> int:
    """A model in this process does one batch at a time; who forms batches across calls wants many of them."""
    return settings.parallel_calls or (128 if settings.backend == "vllm" else 8)


def main() -> None:
    settings = GenerationSettings()
    serve(lambda: service(settings), settings.address)


if __name__ == "__main__":
    main()
