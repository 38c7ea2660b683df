"""A generation service as an asyncio program sees it: messages in, messages out, for a router, which passes on what it need not read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import cached_property
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from semievol.common import errors, security
from semievol.common.grpc_client import AsyncCaller
from semievol.common.grpc_errors import rich_status
from semievol.generation import wire
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import ModelInfo

_SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
_BROKEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}  # gRPC's own words for a connection that ended within a message


class _EngineCaller(AsyncCaller):
    """Whose callers ask another engine where this one is gone."""

    def _error(self, error: grpc.RpcError) -> errors.SemiEvolError:
        if isinstance(error, grpc.aio.AioRpcError) and error.code() in _BROKEN and rich_status(error) is None:
            return errors.Unavailable(f"{self.where} went away ({error.details()}).")
        return super()._error(error)


class EngineClient:
    """Calls one engine. All methods belong to one event loop, on which its connection is made by the first call. Retries nothing.

    `host`: the name that its certificate is checked for where the address is one of several behind that name; empty: the address's own.

    Every method raises Unavailable (nobody answers), Busy, DeadlineExceeded, Cancelled (the engine is shutting down) and what is said there."""

    def __init__(self, address: str, host: str = "") -> None:
        self.address = address
        self._host = host

    async def look(self, timeout_s: float) -> list[ModelInfo]:
        """What it serves, the base first. Raises Unavailable where it says of itself that it does not work (R12)."""
        health = await self._caller.unary(
            self._health.Check, health_pb2.HealthCheckRequest(service=_SERVICE), deadline_s=timeout_s
        )
        if health.status != health_pb2.HealthCheckResponse.SERVING:
            raise errors.Unavailable(f"{self._caller.where} says that it does not work (NOT_SERVING).")
        listed = await self.unary("ListModels", pb.ListModelsRequest(), timeout_s)
        models = [wire.model_info(one) for one in listed.models]
        if not models:
            raise errors.Unavailable(f"{self._caller.where} serves no model.")
        return models

    async def load_adapter(self, name: str, uri: str, timeout_s: float) -> ModelInfo:
        """Raises as AdapterHost.load_adapter."""
        response = await self.unary("LoadAdapter", pb.LoadAdapterRequest(name=name, uri=uri), timeout_s)
        return wire.model_info(response.model)

    async def unload_adapter(self, name: str, timeout_s: float) -> None:
        await self.unary("UnloadAdapter", pb.UnloadAdapterRequest(name=name), timeout_s)

    async def unary(self, method: str, request: Message, timeout_s: float) -> Any:
        """One unary call of GenerationService. Raises what the method's comment in the proto says."""
        return await self._caller.unary(getattr(self._generation, method), request, deadline_s=timeout_s)

    def stream(self, method: str, request: Message, timeout_s: float) -> AsyncGenerator[Any]:
        """A streaming call; leaving the iterator cancels it."""
        return self._caller.stream(getattr(self._generation, method), request, deadline_s=timeout_s)

    async def close(self) -> None:
        if "_caller" in self.__dict__:
            await self._caller.close()

    @cached_property
    def _caller(self) -> _EngineCaller:
        found = security.access()
        return _EngineCaller("generation", self.address, access=replace(found, server_name=found.server_name or self._host))

    @cached_property
    def _generation(self) -> Any:
        channel: Any = self._caller.channel
        return pb_grpc.GenerationServiceStub(channel)

    @cached_property
    def _health(self) -> Any:
        channel: Any = self._caller.channel
        return health_pb2_grpc.HealthStub(channel)
