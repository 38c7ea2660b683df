"""Composition root of the retrieval service."""

from __future__ import annotations

import asyncio

from semievol.common.grpc_server import Service, Workers
from semievol.common.serving import serve
from semievol.ports import VectorIndex
from semievol.retrieval import core
from semievol.retrieval.backends.fake import FakeVectorIndex
from semievol.retrieval.backends.milvus import MilvusIndex
from semievol.retrieval.backends.milvus_connection import connect
from semievol.retrieval.servicer import RetrievalServicer
from semievol.retrieval.settings import RetrievalSettings
from semievol.retrieval.v1 import retrieval_service_pb2 as pb
from semievol.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc


def index(settings: RetrievalSettings) -> VectorIndex:
    """The backend that the settings name, connected. Raises as `connect`."""
    if settings.backend == "fake":
        return FakeVectorIndex()
    connection = connect(settings.uri, settings.token.get_secret_value(), call_timeout_s=settings.call_timeout_s)
    return MilvusIndex(connection)


def service(settings: RetrievalSettings, backend: VectorIndex | None = None) -> Service:
    """The service around `backend` (its owner closes it), or around the one that the settings name."""
    own = index(settings) if backend is None else None
    vectors = own or backend
    assert vectors is not None
    workers = Workers("retrieval", settings.worker_count, settings.max_waiting_count)
    servicer = RetrievalServicer(vectors, workers)

    async def probe() -> None:
        await workers.run(core.probe, vectors)

    async def close() -> None:
        await asyncio.to_thread(workers.close)
        if isinstance(own, MilvusIndex):
            await asyncio.to_thread(own.close)

    return Service(
        name=pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name,
        register=lambda server: pb_grpc.add_RetrievalServiceServicer_to_server(servicer, server),
        probe=probe,
        close=close,
    )


def main() -> None:
    settings = RetrievalSettings()
    serve(lambda: service(settings), settings.address)


if __name__ == "__main__":
    main()
