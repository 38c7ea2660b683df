"""Composition root of the embedding service."""

from __future__ import annotations

import asyncio

from semievol.common.endpoints import Remote, is_url, secret
from semievol.common.grpc_server import Service, Workers
from semievol.common.serving import serve
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.backends.sentence_transformers import SentenceTransformersEmbedder
from semievol.embedding.backends.tei import KEY_NAME, TeiEmbedder
from semievol.embedding.servicer import EmbeddingServicer
from semievol.embedding.settings import EmbeddingSettings
from semievol.embedding.v1 import embedding_service_pb2 as pb
from semievol.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from semievol.ports import Embedder


def embedder(settings: EmbeddingSettings) -> Embedder:
    """The backend that the settings name, its weights loaded. Raises as the backend's constructor."""
    if settings.backend == "fake":
        return FakeEmbedder()
    if settings.backend == "tei" or (settings.backend == "auto" and is_url(settings.model)):
        return TeiEmbedder(settings.model, api_key=secret(KEY_NAME), timeout_s=settings.timeout_s)
    return SentenceTransformersEmbedder(settings.model, device=settings.device, batch_count=settings.batch_count)


def service(settings: EmbeddingSettings, backend: Embedder | None = None) -> Service:
    """The service around `backend`, or around the one that the settings name."""
    backend = backend or embedder(settings)
    elsewhere = backend if isinstance(backend, Remote) else None
    # a model in this process does one batch at a time
    workers = Workers("embedding", settings.server_calls if elsewhere else 1, settings.max_waiting_count)
    servicer = EmbeddingServicer(backend, workers, settings.max_batch_count)

    async def probe() -> None:
        await workers.run(backend.embed, ["ready"])

    async def check() -> None:
        if elsewhere:
            await asyncio.to_thread(elsewhere.check)

    async def close() -> None:
        await asyncio.to_thread(workers.close)
        if elsewhere:
            elsewhere.close()

    return Service(
        name=pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name,
        register=lambda server: pb_grpc.add_EmbeddingServiceServicer_to_server(servicer, server),
        probe=probe,
        close=close,
        check=check if elsewhere else None,
        check_every_s=settings.check_every_s,
    )


def main() -> None:
    settings = EmbeddingSettings()
    serve(lambda: service(settings), settings.address)


if __name__ == "__main__":
    main()
