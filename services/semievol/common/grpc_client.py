"""What every client of the suite has: channels, deadlines, typed errors, and, where it blocks, bounded retries of idempotent calls."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import grpc

from semievol.common import errors
from semievol.common.grpc_errors import from_rpc_error, rich_status
from semievol.common.grpc_security import channel_credentials, channel_options, handshake_error
from semievol.common.limits import MAX_MESSAGE_BYTES
from semievol.common.security import Access
from semievol.common.security import access as access_of_environment
from semievol.ports import NEVER, Cancel

Metadata = tuple[tuple[str, str], ...]

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


def open_channel(address: str, access: Access) -> grpc.Channel:
    """Every channel of the suite that blocks is opened here."""
    credentials, options = channel_credentials(access), [*OPTIONS, *channel_options(access)]
    return grpc.insecure_channel(address, options) if credentials is None else grpc.secure_channel(address, credentials, options)


def open_async_channel(address: str, access: Access) -> grpc.aio.Channel:
    """Likewise, on an event loop."""
    credentials, options = channel_credentials(access), [*OPTIONS, *RECONNECT, *channel_options(access)]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, credentials, options)


class _Calling:
    """What both callers know. `access`: the environment's if none is given, and then InvalidInput is raised where that cannot be used."""

    def __init__(self, service: str, address: str, deadline_s: float, access: Access | None) -> None:
        self._access = access_of_environment() if access is None else access
        self.where = f"The {service} service at {self._access.via or address}"
        self._deadline_s = deadline_s

    def _error(self, error: grpc.RpcError) -> errors.SemiEvolError:
        """What a failed call stands for."""
        call = error if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
        if call and call.code() is grpc.StatusCode.UNAVAILABLE and rich_status(call) is None:
            found = handshake_error(call.details() or "", self.where, self._access)
            if found:
                return found
        return from_rpc_error(error, self.where)


class Caller(_Calling):
    """Calls one service at one address."""

    def __init__(self, service: str, address: str, *, deadline_s: float = 600.0, access: Access | None = None) -> None:
        super().__init__(service, address, deadline_s, access)
        self.channel = open_channel(address, self._access)

    def unary(
        self,
        method: Callable[..., Any],
        request: Any,
        *,
        deadline_s: float | None = None,
        cancel: Cancel = NEVER,
        idempotent: bool = True,
    ) -> Any:
        """One unary call; an idempotent one is retried on UNAVAILABLE (but for certificates) and RESOURCE_EXHAUSTED, a few times, with jitter,
        when the server said. One that is not is retried where nothing was begun (NotActing)."""
        for attempt in range(1, _ATTEMPTS + 1):
            if cancel.is_set():
                raise errors.Cancelled("The call was cancelled.")
            try:
                return self._once(method, request, deadline_s or self._deadline_s, cancel)
            except (errors.Unavailable, errors.Busy) as error:
                again = idempotent or isinstance(error, errors.NotActing)
                if attempt == _ATTEMPTS or not again or isinstance(error, errors.NotTrusted):
                    raise
                wait = error.retry_after_s or _BACKOFF_S * 2 ** (attempt - 1)
                time.sleep(wait * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def _once(self, method: Callable[..., Any], request: Any, deadline_s: float, cancel: Cancel) -> Any:
        future = method.future(request, timeout=deadline_s, metadata=self._access.metadata)  # type: ignore[attr-defined]
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
                raise self._error(error) from error

    def stream(self, method: Callable[..., Any], request: Any, *, deadline_s: float | None = None) -> Iterator[Any]:
        """A server-streaming call. Closing the iterator cancels it."""
        call = method(request, timeout=deadline_s or self._deadline_s, metadata=self._access.metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def upload(self, method: Callable[..., Any], requests: Iterator[Any], *, deadline_s: float | None = None) -> Any:
        """A client-streaming call; not retried, since the iterator is used up."""
        try:
            return method(requests, timeout=deadline_s or self._deadline_s, metadata=self._access.metadata)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def close(self) -> None:
        self.channel.close()


class AsyncCaller(_Calling):
    """`Caller` on an event loop, to which everything of it belongs. Nothing is retried: that is for whoever is being served.

    A task that is cancelled cancels its call."""

    def __init__(self, service: str, address: str, *, deadline_s: float = 600.0, access: Access | None = None) -> None:
        super().__init__(service, address, deadline_s, access)
        self.channel = open_async_channel(address, self._access)

    async def unary(
        self, method: Callable[..., Any], request: Any, *, deadline_s: float | None = None, metadata: Metadata | None = None
    ) -> Any:
        """`metadata`: instead of the token that `access` has."""
        try:
            timeout_s = self._deadline_s if deadline_s is None else deadline_s
            return await method(request, timeout=timeout_s, metadata=self._access.metadata if metadata is None else metadata)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def stream(
        self, method: Callable[..., Any], request: Any, *, deadline_s: float | None = None, metadata: Metadata | None = None
    ) -> AsyncGenerator[Any]:
        """A server-streaming call. Closing the iterator cancels it. `metadata`: as in `unary`."""
        timeout_s = self._deadline_s if deadline_s is None else deadline_s
        call = method(request, timeout=timeout_s, metadata=self._access.metadata if metadata is None else metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        await self.channel.close()
