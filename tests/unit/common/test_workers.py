"""Streams of a servicer: what is made ahead of a slow client is bounded, and a client that goes away ends the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

from semievol.common.grpc_server import Workers


class Source:
    """Numbers without end. Knows how many were made and whether the work is over."""

    def __init__(self) -> None:
        self.made = 0
        self.over = threading.Event()

    def numbers(self, *, cancel: threading.Event) -> Iterator[int]:
        try:
            while not cancel.is_set():
                self.made += 1
                yield self.made
        finally:
            self.over.set()


async def test_a_slow_client_bounds_what_is_made_ahead_and_leaving_ends_the_work() -> None:
    source, workers = Source(), Workers("test", ahead=16)
    stream = workers.stream(source.numbers)
    assert [await anext(stream) for _ in range(3)] == [1, 2, 3]
    await asyncio.sleep(0.2)
    assert source.made < 50
    assert await anext(stream) == 4
    await stream.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(source.over.wait, 10)
    workers.close()


async def test_a_stream_that_is_longer_than_what_is_made_ahead_comes_whole_and_in_order() -> None:
    workers = Workers("test")

    def numbers(*, cancel: threading.Event) -> Iterator[int]:
        yield from range(1000)

    assert [number async for number in workers.stream(numbers)] == list(range(1000))
    workers.close()
