"""A tiny service with generic handlers, for tests of what every server has: `Say`, `Count`, `Sum` and `Echo` over Struct messages."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from semievol.common import errors
from semievol.common.grpc_server import Context, Service, Workers
from semievol.ports import NEVER, Cancel

NAME = "semievol.test.v1.TestService"


class Core:
    """What the test wants to happen, by the request's `do`; remembers what was cancelled."""

    def __init__(self, actions: dict[str, Callable[[], object]] | None = None) -> None:
        self.actions = actions or {}
        self.started = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.produced = 0

    def say(self, request: Struct, *, cancel: Cancel = NEVER) -> Struct:
        action = dict(request.items()).get("do")
        if action == "wait":
            self._wait(cancel)
        elif action in self.actions:
            self.actions[action]()
        return request

    def count(self, request: Struct, *, cancel: Cancel = NEVER) -> Iterator[Struct]:
        for number in range(int(request["to"])):
            self.produced += 1
            yield message(number=number, text=dict(request.items()).get("text", ""))
        if "do" in request:
            self.say(request, cancel=cancel)

    def _wait(self, cancel: Cancel) -> None:
        """Until it is told to go on or cancelled, at most 20 s."""
        self.started.release()
        for _ in range(2000):
            if cancel.is_set():
                self.cancelled.release()
                raise errors.Cancelled("Stopped.")
            if self.go_on.is_set():
                return
            time.sleep(0.01)


def message(**fields: Any) -> Struct:
    made = Struct()
    made.update(fields)
    return made


def service(core: Core, workers: Workers | None = None, probe: Callable[[], None] = lambda: None) -> Service:
    pool = workers or Workers("test", threads=8)

    async def say(request: Struct, context: Context) -> Struct:
        return await pool.run_cancellable(core.say, request)

    async def count(request: Struct, context: Context) -> AsyncIterator[Struct]:
        async for item in pool.stream(core.count, request):
            yield item

    async def total(requests: AsyncIterator[Struct], context: Context) -> Struct:
        return message(sum=sum([request["number"] async for request in requests]))

    async def echo(requests: AsyncIterator[Struct], context: Context) -> AsyncIterator[Struct]:
        async for request in requests:
            yield await pool.run(core.say, request)

    codec = {"request_deserializer": Struct.FromString, "response_serializer": Struct.SerializeToString}
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say, **codec),
        "Count": grpc.unary_stream_rpc_method_handler(count, **codec),
        "Sum": grpc.stream_unary_rpc_method_handler(total, **codec),
        "Echo": grpc.stream_stream_rpc_method_handler(echo, **codec),
    }

    async def run_probe() -> None:
        await pool.run(probe)

    async def close() -> None:
        await asyncio.to_thread(pool.close)

    return Service(
        name=NAME,
        register=lambda server: server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, methods),)),
        probe=run_probe,
        close=close,
    )


class Stub:
    def __init__(self, channel: grpc.Channel) -> None:
        codec = {"request_serializer": Struct.SerializeToString, "response_deserializer": Struct.FromString}
        self.say = channel.unary_unary(f"/{NAME}/Say", **codec)
        self.count = channel.unary_stream(f"/{NAME}/Count", **codec)
        self.sum = channel.stream_unary(f"/{NAME}/Sum", **codec)
        self.echo = channel.stream_stream(f"/{NAME}/Echo", **codec)
        self.missing = channel.unary_unary(f"/{NAME}/Missing", **codec)
