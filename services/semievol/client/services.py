"""Clients of the services by address, for those that call several."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from semievol.common import errors

if TYPE_CHECKING:
    from semievol.client.embedding import EmbeddingClient
    from semievol.client.generation import GenerationClient
    from semievol.client.judging import JudgingClient
    from semievol.client.retrieval import RetrievalClient
    from semievol.client.training import TrainingClient


class Services:
    """`addresses`: service -> host:port. Imported and connected when first used: who only reads state needs none of them, and the command
    line must start quickly. A service without an address raises Unavailable then."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses

    @cached_property
    def embedding(self) -> EmbeddingClient:
        from semievol.client.embedding import EmbeddingClient

        return EmbeddingClient(self._address("embedding"))

    @cached_property
    def retrieval(self) -> RetrievalClient:
        from semievol.client.retrieval import RetrievalClient

        return RetrievalClient(self._address("retrieval"))

    @cached_property
    def generation(self) -> GenerationClient:
        from semievol.client.generation import GenerationClient

        return GenerationClient(self._address("generation"))

    @cached_property
    def judging(self) -> JudgingClient:
        from semievol.client.judging import JudgingClient

        return JudgingClient(self._address("judging"))

    @cached_property
    def training(self) -> TrainingClient:
        from semievol.client.training import TrainingClient

        return TrainingClient(self._address("training"))

    def has(self, service: str) -> bool:
        """Whether it has an address."""
        return service in self._addresses

    def _address(self, service: str) -> str:
        if service not in self._addresses:
            raise errors.Unavailable(f"The {service} service is not at work here; start the services with `semievol serve`.")
        return self._addresses[service]

    def close(self) -> None:
        """Closes those that were connected."""
        for name in ("embedding", "retrieval", "generation", "judging", "training"):
            if client := self.__dict__.get(name):
                client.close()
