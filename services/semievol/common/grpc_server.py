"""What every server of the suite has: error mapping, health, reflection, a worker thread for blocking calls, a graceful end.

A servicer's method is `return wire.response(await self._workers.run(context, core.method, wire.arguments(request)))`;
everything else about being a server is here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from semievol.common import errors
from semievol.common.grpc_errors import to_status
from semievol.common.grpc_security import TokenInterceptor, server_credentials, warn_if_open
from semievol.common.limits import MAX_MESSAGE_BYTES
from semievol.common.security import Protection, protection

log = logging.getLogger(__name__)


_MAX_PENDING_CALLS = 100_000
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # a unary call is silent while a model works
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),  # a port in use must fail, not be shared
    # gRPC would reset calls at random, as CANCELLED, beyond 1000 that it has not handed over; our own answer, Busy, says what to do
    ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
]

P = ParamSpec("P")
T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class Workers:
    """A small pool of threads between the event loop and blocking code. One thread for a model that does one thing at a time.

    At most `max_waiting` calls wait; one more raises Busy, so that a queue never grows without bound. A stream whose reader takes nothing
    for `stall_s` seconds, while `ahead` messages wait for it, is ended: it would keep a thread. (1024 tokens are a whole reply.)
    """

    def __init__(self, name: str, threads: int = 1, max_waiting: int = 64, *, ahead: int = 1024, stall_s: float = 10.0) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + max_waiting
        self._ahead, self._stall_s = ahead, stall_s
        self._active = 0  # calls whose work is not over, those that were abandoned included
        self._lock = threading.Lock()

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """fn(*args) on a worker thread."""
        return await asyncio.wrap_future(self._start(lambda: fn(*args, **kwargs)))

    async def run_cancellable(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """fn(*args, cancel=event) on a worker thread; the event is set when the client goes away or its deadline passes (R8)."""
        cancel = threading.Event()
        try:
            return await self.run(fn, *args, cancel=cancel, **kwargs)
        except asyncio.CancelledError:
            cancel.set()
            raise

    async def stream(self, fn: Callable[..., Iterator[T]], /, *args: Any, **kwargs: Any) -> AsyncIterator[T]:
        """Yields what fn(*args, cancel=event) yields on a worker thread, as it comes; the thread waits for a reader that is far behind."""
        loop, cancel = asyncio.get_running_loop(), threading.Event()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        done, room = object(), threading.Semaphore(self._ahead)

        def produce() -> None:
            for item in fn(*args, cancel=cancel, **kwargs):
                if not room.acquire(timeout=self._stall_s):
                    raise errors.DeadlineExceeded(
                        f"The client has read nothing for {self._stall_s:g} s; read faster, or ask for less."
                    )
                if cancel.is_set():
                    return
                loop.call_soon_threadsafe(queue.put_nowait, item)

        work = asyncio.wrap_future(self._start(produce))
        work.add_done_callback(lambda _: queue.put_nowait(done))
        try:
            while (item := await queue.get()) is not done:
                yield item
                room.release()
            await work  # raises what fn raised
        finally:
            cancel.set()
            room.release()  # so that the thread sees it at once
            work.cancel()  # in case that it has not begun

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._active >= self._limit:
                raise errors.Busy(f"{self._limit} calls are at work or waiting already; try again in a second.")
            self._active += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._end)
        return future

    def _end(self, _: Future[Any]) -> None:
        with self._lock:
            self._active -= 1


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps our errors to rich statuses; anything else is our bug: INTERNAL with a request id, the traceback in the log only.

    Messages are decoded and encoded in here: gRPC itself would answer UNKNOWN, with the exception's text, to bytes that are no message.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}  # by method: they never change, and gRPC asks for them with every call

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        if details.method in self._handlers:
            return self._handlers[details.method]
        handler = await continuation(details)
        if handler is None:
            return None
        codec = _Codec(handler)
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
            behaviour = _streaming(handler.stream_stream or handler.unary_stream, details.method, codec)
        else:
            make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
            behaviour = _single(handler.stream_unary or handler.unary_unary, details.method, codec)
        self._handlers[details.method] = make(behaviour, request_deserializer=None, response_serializer=codec.encode)
        return self._handlers[details.method]


class _Codec:
    """Bytes <-> messages of one method."""

    def __init__(self, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
        self._decode = handler.request_deserializer or bytes
        self._encode = handler.response_serializer or bytes
        self._streaming = handler.request_streaming

    def encode(self, message: Any) -> bytes:
        """What is encoded already stays as it is: gRPC calls this again, for handlers that write by themselves (health's Watch)."""
        return message if isinstance(message, bytes) else self._encode(message)

    def request(self, raw: Any) -> Any:
        """The request, or the stream of requests. Raises InvalidInput."""
        return self._stream(raw) if self._streaming else self._message(raw)

    def _message(self, data: bytes) -> Any:
        try:
            return self._decode(data)
        except Exception as error:  # whatever the decoder of this message's format raises
            raise errors.InvalidInput(
                "The request is no valid message of this method; client and server may differ in version."
            ) from error

    async def _stream(self, raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in raw:
            yield self._message(data)


def _single(behaviour: Callable[..., Any], method: str, codec: _Codec) -> Callable[..., Any]:
    async def call(raw: Any, context: Context) -> Any:
        started = time.monotonic()
        try:
            response = codec.encode(await behaviour(codec.request(raw), context))
        except Exception as error:
            await _abort(context, method, error, started)
        log.debug("%s OK %.1f ms", method, 1000 * (time.monotonic() - started))
        return response

    return call


def _streaming(behaviour: Callable[..., Any], method: str, codec: _Codec) -> Callable[..., Any]:
    async def call(raw: Any, context: Context) -> AsyncIterator[Any]:
        started = time.monotonic()
        try:
            stream = behaviour(codec.request(raw), context)
            if not hasattr(stream, "__aiter__"):  # a handler that writes by itself
                await stream
                return
            async with aclosing(stream):  # ends the work at once when the client goes away
                async for response in stream:
                    yield codec.encode(response)
        except Exception as error:
            await _abort(context, method, error, started)

    return call


async def _abort(context: Context, method: str, error: Exception, started: float) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, errors.SemiEvolError):
        request_id = uuid.uuid4().hex[:12]
        log.error("%s failed, request id %s", method, request_id, exc_info=error)
        error = errors.InternalError(f"Internal error; the server's log has it under request id {request_id}.")
    else:
        log.info("%s %s %.1f ms: %s", method, error.code, 1000 * (time.monotonic() - started), error.message)
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


@dataclass(frozen=True)
class Service:
    """One service of a server: its full proto name, how to register its servicer, and how to prove that it works (R12).

    `check` is for services whose work is done elsewhere: it raises while that does not work, and is called every `check_every_s` seconds.
    `public`: it is meant to be reached from outside, so tokens guard it where there are any.
    """

    name: str
    register: Callable[[grpc.aio.Server], None]
    probe: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]] | None = None
    check: Callable[[], Awaitable[None]] | None = None
    check_every_s: float = 10.0
    public: bool = False


LIVENESS = "liveness"
"""The health service's name for "the event loop runs": SERVING while models are loaded, and while the last calls finish."""


class _Health(health_aio.HealthServicer):
    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        if request.service == LIVENESS:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        response: health_pb2.HealthCheckResponse = await super().Check(request, context)
        return response


class Server:
    """A gRPC server with health and reflection. NOT_SERVING until every probe has succeeded, and while a check fails.

    `guard`: its certificate and tokens, the environment's if none are given, and then InvalidInput is raised where these cannot be used.
    `health_address`: where health is answered alone, and in plaintext, since probes of Kubernetes speak no TLS; empty: nowhere."""

    def __init__(
        self,
        services: Sequence[Service],
        address: str = "127.0.0.1:0",
        *,
        guard: Protection | None = None,
        health_address: str = "",
    ) -> None:
        self._services = services
        self._address = address
        self._guard = protection() if guard is None else guard
        self._public = [service.name for service in services if service.public]
        tokens = [TokenInterceptor(self._guard.tokens)] if self._public and self._guard.tokens else []
        self._server = grpc.aio.server(interceptors=[*tokens, ErrorInterceptor()], options=_OPTIONS)
        self._health = _Health()
        self._health_address = health_address
        self._health_server: grpc.aio.Server | None = None
        self._failing: set[str] = set()
        self._checks: list[asyncio.Task[None]] = []
        self.address = self.health_address = ""

    async def start(self) -> None:
        """Binds, registers and probes. Raises Unavailable (port in use) or what a probe raises, and then serves nothing."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for service in self._services:
            service.register(self._server)
            await self._health.set(service.name, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        names = [service.name for service in self._services]
        reflection.enable_server_reflection([*names, "grpc.health.v1.Health", reflection.SERVICE_NAME], self._server)
        self.address = _bind(self._server, self._address, server_credentials(self._guard))
        warn_if_open(self._public, self.address, self._guard)
        await self._start_health()
        await self._server.start()
        try:
            for service in self._services:
                await service.probe()
                await self._health.set(service.name, health_pb2.HealthCheckResponse.SERVING)
        except BaseException:
            await self._server.stop(None)
            await self._stop_health()
            raise
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self._checks = [asyncio.create_task(self._keep_checking(service)) for service in self._services if service.check]

    async def _start_health(self) -> None:
        if not self._health_address:
            return
        self._health_server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
        self.health_address = _bind(self._health_server, self._health_address, None)
        await self._health_server.start()

    async def _stop_health(self) -> None:
        if self._health_server is not None:
            await self._health_server.stop(None)

    async def _keep_checking(self, service: Service) -> None:
        assert service.check is not None
        while True:
            await asyncio.sleep(service.check_every_s)
            try:
                await service.check()
            except Exception as error:
                if service.name not in self._failing:
                    log.error("%s does not work: %s", service.name, error)
                self._failing.add(service.name)
            else:
                if service.name in self._failing:
                    log.info("%s works again", service.name)
                self._failing.discard(service.name)
            serving, failing = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(service.name, failing if service.name in self._failing else serving)
            await self._health.set("", failing if self._failing else serving)

    async def stop(self, grace_s: float = 10.0) -> None:
        """Stops taking calls, lets those in flight finish for `grace_s` seconds, then closes the services."""
        for check in self._checks:
            check.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        for service in self._services:
            if service.close:
                await service.close()
        await self._stop_health()

    async def wait(self) -> None:
        await self._server.wait_for_termination()


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """The address with the port that it has got. Raises Unavailable."""
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise errors.Unavailable(
            f"Cannot listen at the address {address}: the port is in use or not allowed; give another one.", field="address"
        ) from error
    return f"{address.rpartition(':')[0]}:{port}"
