"""What one replica of the controller passes on to the one that acts, so that a Service may give any call to any of them.

A call is passed on once: a replica that gets such a one and does not act either (who acts may be changing at this moment) refuses it, and nothing
was begun. Who acts is decided by the Lease, and fenced by the store, as if everybody had called the right replica.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import grpc

from semievol.common import errors, security
from semievol.common.grpc_client import AsyncCaller, Metadata
from semievol.common.grpc_errors import rich_status
from semievol.common.grpc_server import Context
from semievol.controller.core import HANDOVER_S
from semievol.controller.v1 import controller_service_pb2_grpc as pb_grpc

S = TypeVar("S")

_PASSED_ON = ("semievol-passed-on", "true")
_LONGEST_S = 3600.0  # for calls whose client set no deadline
_GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}  # no server there, or one that was ended meanwhile


_NO_CONNECTION = "failed to connect"  # gRPC's words: nothing was sent


class _ReplicaCaller(AsyncCaller):
    """Whose callers cannot start that server: they can only wait for the next one that acts."""

    def _error(self, error: grpc.RpcError) -> errors.SemiEvolError:
        found = super()._error(error)
        if not isinstance(error, grpc.aio.AioRpcError) or error.code() not in _GONE or rich_status(error) is not None:
            return found
        if isinstance(found, errors.NotTrusted):
            return found
        begun = _NO_CONNECTION not in (error.details() or "")
        return (errors.Unavailable if begun else errors.NotActing)(
            f"{self.where}, the replica that acts, does not answer. Another one takes over when its lease is over; try again in a few seconds.",
            retry_after_s=HANDOVER_S,
        )


@dataclass(frozen=True)
class Replica:
    """The one that acts, for one call: it is called as the caller calls us, with the caller's token and deadline."""

    address: str
    server_name: str
    metadata: Metadata
    deadline_s: float

    async def unary(self, method: str, request: Any, *, deadline_s: float = _LONGEST_S) -> Any:
        """Raises what it answers, and Unavailable where it does not."""
        caller = self._caller()
        try:
            left_s = min(self.deadline_s, deadline_s)
            return await caller.unary(_method(caller, method), request, deadline_s=left_s, metadata=self.metadata)
        finally:
            await caller.close()

    async def stream(self, method: str, request: Any) -> AsyncGenerator[Any]:
        """Likewise; leaving the iterator cancels the call."""
        caller = self._caller()
        try:
            call = caller.stream(_method(caller, method), request, deadline_s=self.deadline_s, metadata=self.metadata)
            async with aclosing(call) as responses:
                async for response in responses:
                    yield response
        finally:
            await caller.close()

    def _caller(self) -> _ReplicaCaller:
        """A connection for this call alone: such calls are few, and there is none to be kept to a replica that is gone."""
        access = security.access()
        return _ReplicaCaller(
            "controller", self.address, access=replace(access, server_name=self.server_name or access.server_name)
        )


def _method(caller: AsyncCaller, name: str) -> Any:
    channel: Any = caller.channel
    return getattr(pb_grpc.ControllerServiceStub(channel), name)


def _alone() -> tuple[str, str]:
    return "", ""


class Replicas:
    """`acting`: as `Elector.acting`; `server_name`: as ControllerSettings has it. Without either: there is no other replica."""

    def __init__(self, acting: Callable[[], tuple[str, str]] = _alone, server_name: str = "") -> None:
        self._acting = acting
        self._server_name = server_name

    def for_call(self, context: Context) -> Replica | None:
        """Whom to pass a call on to; None: it is for us, to do or to refuse."""
        _, address = self._acting()
        sent = context.invocation_metadata() or ()
        if not address or any(name == _PASSED_ON[0] for name, _ in sent):
            return None
        token = tuple((name, str(value)) for name, value in sent if name == "authorization")
        left_s = context.time_remaining()
        return Replica(address, self._server_name, (*token, _PASSED_ON), _LONGEST_S if left_s is None else left_s)


def by_the_acting(method: Callable[[S, Any, Context], Awaitable[Any]]) -> Callable[[S, Any, Context], Awaitable[Any]]:
    """Of a servicer's method that changes runs: whichever replica is called, the one that acts does it."""

    @functools.wraps(method)
    async def call(self: S, request: Any, context: Context) -> Any:
        others: Replicas = self.others  # type: ignore[attr-defined]
        if replica := others.for_call(context):
            return await replica.unary(method.__name__, request)
        return await method(self, request, context)

    return call
