"""How a room runs alone: `python -m semievol.<room>.server`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

from semievol.common import errors, security
from semievol.common.grpc_server import Server, Service

log = logging.getLogger(__name__)


def serve(build: Callable[[], Service], address: str) -> None:
    """Builds the service, serves it at `address` until SIGTERM or SIGINT, then lets the calls in flight finish.

    Exits with the error's own code where it cannot start.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_serve(build, address))
    except errors.SemiEvolError as error:
        log.error("%s: %s", type(error).__name__, error.message)
        sys.exit(error.exit_code)


async def wait_for(what: str, check: Callable[[], Awaitable[None]], every_s: float) -> None:
    """Checks until no Unavailable is raised: what loads a model takes minutes, and who gave up meanwhile would only be started again."""
    waits = False
    while True:
        try:
            return await check()
        except errors.Unavailable as error:
            if not waits:
                log.warning("Waiting for %s: %s", what, error.message)
            waits = True
        await asyncio.sleep(every_s)


async def _serve(build: Callable[[], Service], address: str) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    found = security.settings()
    guard = security.protection(found)
    service = build()
    server = Server([service], address, guard=guard, health_address=found.health_address)
    try:
        starting, stopping = asyncio.ensure_future(server.start()), asyncio.ensure_future(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # told to stop before it worked
            starting.cancel()
            await asyncio.wait({starting})
            return
        await starting
        log.info("%s serves at %s", service.name, server.address)
        await stopping
    finally:
        await server.stop()
