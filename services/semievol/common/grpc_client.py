"""What every client of the suite has: channels, deadlines, typed errors, and, where it blocks, bounded retries of idempotent calls."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import grpc

from semievol.common import errors
from semievol.common.grpc_errors import from_rpc_error
from semievol.common.limits import MAX_MESSAGE_BYTES
from semievol.ports import NEVER, Cancel

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
# By default gRPC looks for a server that went away less and less often, up to every two minutes. (The least backoff is also the longest wait for
# a connection: a busy machine needs more than the milliseconds that one takes as a rule.)
RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_ATTEMPTS = 4
_BACKOFF_S = 0.2  # first wait; doubles, with full jitter
_POLL_S = 0.1  # how soon a cancellation is noticed


class Caller:
    """Calls one service at one address."""

    def __init__(self, service: str, address: str, *, deadline_s: float = 600.0) -> None:
        self.channel = grpc.insecure_channel(address, options=OPTIONS)
        self._where = f"The {service} service at {address}"
        self._deadline_s = deadline_s

    def unary(
        self,
        method: Callable[..., Any],
        request: Any,
        *,
        deadline_s: float | None = None,
        cancel: Cancel = NEVER,
        idempotent: bool = True,
    ) -> Any:
        """One unary call; an idempotent one is retried on UNAVAILABLE and RESOURCE_EXHAUSTED, a few times, with jitter."""
        attempts = _ATTEMPTS if idempotent else 1
        for attempt in range(attempts):
            if cancel.is_set():
                raise errors.Cancelled("The call was cancelled.")
            try:
                return self._once(method, request, deadline_s or self._deadline_s, cancel)
            except (errors.Unavailable, errors.Busy) as error:
                if attempt == attempts - 1:
                    raise
                wait = error.retry_after_s if isinstance(error, errors.Busy) else _BACKOFF_S * 2**attempt
                time.sleep(wait * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def _once(self, method: Callable[..., Any], request: Any, deadline_s: float, cancel: Cancel) -> Any:
        future = method.future(request, timeout=deadline_s)  # type: ignore[attr-defined]
        while True:
            try:
                return future.result(timeout=_POLL_S)
            except grpc.FutureTimeoutError:
                if cancel.is_set():
                    future.cancel()
                    raise errors.Cancelled("The call was cancelled.") from None
            except grpc.FutureCancelledError as error:
                raise errors.Cancelled("The call was cancelled.") from error
            except grpc.RpcError as error:
                raise from_rpc_error(error, self._where) from error

    def stream(self, method: Callable[..., Any], request: Any, *, deadline_s: float | None = None) -> Iterator[Any]:
        """A server-streaming call. Closing the iterator cancels it."""
        call = method(request, timeout=deadline_s or self._deadline_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._where) from error
        finally:
            call.cancel()

    def upload(self, method: Callable[..., Any], requests: Iterator[Any], *, deadline_s: float | None = None) -> Any:
        """A client-streaming call; not retried, since the iterator is used up."""
        try:
            return method(requests, timeout=deadline_s or self._deadline_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._where) from error

    def close(self) -> None:
        self.channel.close()


class AsyncCaller:
    """`Caller` on an event loop, to which everything of it belongs. Nothing is retried: that is for whoever is being served.

    A task that is cancelled cancels its call."""

    def __init__(self, service: str, address: str, *, deadline_s: float = 600.0) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=[*OPTIONS, *RECONNECT])
        self.where = f"The {service} service at {address}"
        self._deadline_s = deadline_s

    async def unary(self, method: Callable[..., Any], request: Any, *, deadline_s: float | None = None) -> Any:
        try:
            return await method(request, timeout=self._deadline_s if deadline_s is None else deadline_s)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def stream(self, method: Callable[..., Any], request: Any, *, deadline_s: float | None = None) -> AsyncGenerator[Any]:
        """A server-streaming call. Closing the iterator cancels it."""
        call = method(request, timeout=self._deadline_s if deadline_s is None else deadline_s)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        await self.channel.close()

    def _error(self, error: grpc.aio.AioRpcError) -> errors.SemiEvolError:
        return from_rpc_error(error, self.where)
