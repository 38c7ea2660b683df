"""Runs real servers, interceptors included, on port 0 beside a synchronous test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from semievol.common.grpc_server import Server, Service


@contextmanager
def running(*services: Service, **options: Any) -> Iterator[str]:
    """The address of a server with these services, SERVING; stopped at the end. `options`: as `Server` has them."""
    with running_server(*services, **options) as server:
        yield server.address


@contextmanager
def running_server(*services: Service, **options: Any) -> Iterator[Server]:
    """The server itself."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-server")
    thread.start()

    async def start() -> Server:
        server = Server(services, **options)
        await server.start()
        return server

    server: Server | None = None
    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        yield server
    finally:
        if server is not None:
            asyncio.run_coroutine_threadsafe(server.stop(1.0), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
