"""Streams: several replies as one, their pieces as server-sent events, and what happens when the reader goes away."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from semievol.common import errors
from semievol.door.errors import Names, answer, going_down
from semievol.door.metrics import Metrics

T = TypeVar("T")

log = logging.getLogger(__name__)

_AHEAD = 16  # pieces of one reply that may wait for the reader
DONE = b"data: [DONE]\n\n"


def event(body: Any) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The work's result. A client that goes away ends the work (R8); its body must have been read. Raises Cancelled then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise errors.Cancelled("The client has gone.", details={"code": "client_gone"})
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def merged(streams: Sequence[AsyncGenerator[T]], at_once: int) -> AsyncGenerator[tuple[int, T]]:
    """(which stream, its next item), as they come, of `at_once` streams at the same time. Closing this closes all; the first error ends all."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(_AHEAD * len(streams))
    turn = asyncio.Semaphore(at_once)

    async def pump(index: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with turn, aclosing(stream):
                async for item in stream:
                    await queue.put((index, item))
            await queue.put(None)
        except Exception as error:  # raised where the streams are read
            await queue.put(error)

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        for _ in tasks:
            while (entry := await queue.get()) is not None:
                if isinstance(entry, Exception):
                    raise entry
                yield entry
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first_of(request: Request, stream: AsyncGenerator[T]) -> T:
    """The first item, before which an error is an answer of its own, with a status. Closes the stream where there is none."""
    try:
        return await unless_gone(request, anext(stream))
    except BaseException:
        await stream.aclose()
        raise


async def after(first: T, rest: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The stream whose first item has been taken, whole again."""
    yield first
    async for item in rest:
        yield item


class EventStream(StreamingResponse):
    """`events` as an answer, made of `source`, which is closed at the end. An error in the middle, when the status is long sent, is an event of
    its own, and the last one; without one `[DONE]` is."""

    def __init__(
        self, events: AsyncIterator[bytes], source: AsyncGenerator[Any], *, names: Names, request_id: str, metrics: Metrics
    ) -> None:
        self._events, self._source, self._names, self._id, self._metrics = events, source, names, request_id, metrics
        super().__init__(self._lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.open_streams.inc()
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:  # uvicorn's, when the grace of a shutdown is over
            await send({"type": "http.response.body", "body": self._error(going_down()), "more_body": False})
        finally:
            self._metrics.open_streams.dec()
            await self._source.aclose()  # stops the models

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            async for one in self._events:
                yield one
        except errors.SemiEvolError as error:
            yield self._error(error)
        except Exception as error:
            log.error("A stream failed, request id %s", self._id, exc_info=error)
            yield self._error(errors.InternalError(f"Internal error; the door's log has it under request id {self._id}."))
        else:
            yield DONE

    def _error(self, error: errors.SemiEvolError) -> bytes:
        return b"event: error\n" + event(answer(error, self._names)[1])
