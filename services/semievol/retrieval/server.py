"""Composition root of the retrieval service."""

from __future__ import annotations

import asyncio

from semievol.common import errors
from semievol.common.endpoints import secret
from semievol.common.grpc_server import Service, Workers
from semievol.common.serving import serve
from semievol.ports import VectorIndex
from semievol.retrieval import core
from semievol.retrieval.backends.fake import FakeVectorIndex
from semievol.retrieval.backends.milvus import MilvusIndex
from semievol.retrieval.backends.milvus_connection import TOKEN_NAME, connect
from semievol.retrieval.servicer import RetrievalServicer
from semievol.retrieval.settings import RetrievalSettings
from semievol.retrieval.v1 import retrieval_service_pb2 as pb
from semievol.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc


def index(settings: RetrievalSettings) -> VectorIndex:
    """The backend that the settings name, connected. Raises as `connect`."""
    if settings.backend == "fake":
        return FakeVectorIndex()
    token, timeout_s = secret(TOKEN_NAME), settings.call_timeout_s
    value = token.get_secret_value() if token else ""
    return MilvusIndex(connect(settings.uri, value, database=settings.database, call_timeout_s=timeout_s))


def service(settings: RetrievalSettings, backend: VectorIndex | None = None) -> Service:
    """The service around `backend` (its owner closes it), or around the one that the settings name."""
    own = index(settings) if backend is None else None
    vectors = own or backend
    assert vectors is not None
    workers = Workers("retrieval", settings.worker_count, settings.max_waiting_count)
    servicer = RetrievalServicer(vectors, workers)

    async def probe() -> None:
        await workers.run(core.probe, vectors)

    looking: list[asyncio.Future[None]] = []  # the look that is under way: one that hangs is not joined by others

    async def check() -> None:
        if not looking:
            looking.append(asyncio.ensure_future(asyncio.to_thread(core.recheck, vectors)))  # no worker: full is not dead
        done, _ = await asyncio.wait(looking, timeout=settings.check_timeout_s)
        if not done:
            raise errors.Unavailable(f"The vector store has not answered for {settings.check_timeout_s:g} seconds.")
        looking.pop().result()

    async def close() -> None:
        for look in looking:
            look.cancel()
        await asyncio.to_thread(workers.close)
        if isinstance(own, MilvusIndex):
            await asyncio.to_thread(own.close)

    return Service(
        name=pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name,
        register=lambda server: pb_grpc.add_RetrievalServiceServicer_to_server(servicer, server),
        probe=probe,
        check=check,
        check_every_s=settings.check_every_s,
        close=close,
    )


def main() -> None:
    settings = RetrievalSettings()
    serve(lambda: service(settings), settings.address)


if __name__ == "__main__":
    main()
