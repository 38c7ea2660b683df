"""A generation service as an asyncio program sees it: messages in, messages out, for a router, which passes on what it need not read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from semievol.common import errors
from semievol.common.grpc_client import OPTIONS, RECONNECT
from semievol.common.grpc_errors import from_rpc_error, rich_status
from semievol.generation import wire
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import ModelInfo

M = TypeVar("M", bound=Message)

_SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
_BROKEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}  # gRPC's own words for a connection that ended within a message


class EngineClient:
    """Calls one engine. All methods belong to one event loop, on which its connection is made by the first call. Retries nothing.

    Every method raises Unavailable (nobody answers), Busy, DeadlineExceeded, Cancelled (the engine is shutting down) and what is said there."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._where = f"The generation service at {address}"
        self._channel: grpc.aio.Channel | None = None
        self._generation: Any = None
        self._health: Any = None

    async def look(self, timeout_s: float) -> list[ModelInfo]:
        """What it serves, the base first. Raises Unavailable where it says of itself that it does not work (R12)."""
        request = health_pb2.HealthCheckRequest(service=_SERVICE)
        health = await self._answer(self._stubs()[1].Check(request, timeout=timeout_s))
        if health.status != health_pb2.HealthCheckResponse.SERVING:
            raise errors.Unavailable(f"{self._where} says that it does not work (NOT_SERVING).")
        listed = await self._answer(self._stubs()[0].ListModels(pb.ListModelsRequest(), timeout=timeout_s))
        models = [wire.model_info(one) for one in listed.models]
        if not models:
            raise errors.Unavailable(f"{self._where} serves no model.")
        return models

    async def load_adapter(self, name: str, uri: str, timeout_s: float) -> ModelInfo:
        """Raises as AdapterHost.load_adapter."""
        response = await self._answer(self._stubs()[0].LoadAdapter(pb.LoadAdapterRequest(name=name, uri=uri), timeout=timeout_s))
        return wire.model_info(response.model)

    async def unload_adapter(self, name: str, timeout_s: float) -> None:
        await self._answer(self._stubs()[0].UnloadAdapter(pb.UnloadAdapterRequest(name=name), timeout=timeout_s))

    async def unary(self, method: str, request: Message, timeout_s: float) -> Any:
        """One unary call of GenerationService. Raises what the method's comment in the proto says."""
        return await self._answer(getattr(self._stubs()[0], method)(request, timeout=timeout_s))

    async def stream(self, method: str, request: Message, timeout_s: float) -> AsyncGenerator[Any, None]:
        """A streaming call; leaving the iterator cancels it."""
        call = getattr(self._stubs()[0], method)(request, timeout=timeout_s)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _stubs(self) -> tuple[Any, Any]:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=[*OPTIONS, *RECONNECT])
            self._generation = pb_grpc.GenerationServiceStub(self._channel)
            self._health = health_pb2_grpc.HealthStub(self._channel)
        return self._generation, self._health

    async def _answer(self, call: Awaitable[M]) -> M:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.aio.AioRpcError) -> errors.SemiEvolError:
        if error.code() in _BROKEN and rich_status(error) is None:
            return errors.Unavailable(f"{self._where} went away ({error.details()}).")
        return from_rpc_error(error, self._where)
