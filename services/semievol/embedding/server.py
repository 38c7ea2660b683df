"""Composition root of the embedding service."""

from __future__ import annotations

import asyncio

from semievol.common.grpc_server import Service, Workers
from semievol.common.serving import serve
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.backends.sentence_transformers import SentenceTransformersEmbedder
from semievol.embedding.servicer import EmbeddingServicer
from semievol.embedding.settings import EmbeddingSettings
from semievol.embedding.v1 import embedding_service_pb2 as pb
from semievol.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from semievol.ports import Embedder


def embedder(settings: EmbeddingSettings) -> Embedder:
    """The backend that the settings name, its weights loaded. Raises as the backend's constructor."""
    if settings.backend == "fake":
        return FakeEmbedder()
    return SentenceTransformersEmbedder(settings.model, device=settings.device, batch_count=settings.batch_count)


def service(settings: EmbeddingSettings, backend: Embedder | None = None) -> Service:
    """The service around `backend`, or around the one that the settings name."""
    backend = backend or embedder(settings)
    workers = Workers("embedding", max_waiting=settings.max_waiting_count)  # one thread: the model does one batch at a time
    servicer = EmbeddingServicer(backend, workers, settings.max_batch_count)

    async def probe() -> None:
        await workers.run(backend.embed, ["ready"])

    async def close() -> None:
        await asyncio.to_thread(workers.close)

    return Service(
        name=pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name,
        register=lambda server: pb_grpc.add_EmbeddingServiceServicer_to_server(servicer, server),
        probe=probe,
        close=close,
    )


def main() -> None:
    settings = EmbeddingSettings()
    serve(lambda: service(settings), settings.address)


if __name__ == "__main__":
    main()
