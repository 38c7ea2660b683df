"""A router as those see it who ask models: a stream of text, who wrote it, and how sure it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from semievol.common.grpc_client import Caller
from semievol.common.security import Access
from semievol.generation import core, wire
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import ChatDelta, ModelInfo, Prompt, Sampling


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a reply, and the model that writes it. On the last piece, of the whole reply: `mean_nll` in nats per token, None without
    tokens; `confidence`, percent of the pseudo-labels that the model learned from that were no surer, None where these are not known."""

    delta: ChatDelta
    model: ModelInfo
    mean_nll: float | None = None
    confidence: float | None = None


class RouterClient:
    """Safe to share between threads. `close` it. `access`: the environment's if none is given."""

    def __init__(self, address: str, *, deadline_s: float = 3600.0, access: Access | None = None) -> None:
        self._caller = Caller("router", address, deadline_s=deadline_s, access=access)
        self._stub = pb_grpc.GenerationServiceStub(self._caller.channel)

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, routing_key: str = "") -> Iterator[Piece]:
        """`model`: an alias, a registered model, `base` or the base's own name. Raises NotFound listing what there is, InvalidInput(field=),
        Busy, Unavailable (naming the engines), Conflict (no engine has the model's base)."""
        core.check_chat(prompt, sampling)
        request = pb.ChatRequest(
            model=model,
            prompt=wire.prompt_message(prompt),
            sampling=wire.sampling_message(sampling),
            routing_key=routing_key,
        )
        for response in self._caller.stream(self._stub.Chat, request):
            yield Piece(
                wire.delta(response),
                wire.model_info(response.model),
                response.mean_nll if response.HasField("mean_nll") else None,
                response.confidence if response.HasField("confidence") else None,
            )

    def close(self) -> None:
        self._caller.close()
