"""What every path of the door works with."""

from __future__ import annotations

from dataclasses import dataclass

from semievol.client.asynchronous import AsyncEmbeddingClient, AsyncGenerationClient
from semievol.door.metrics import Metrics
from semievol.door.settings import DoorSettings


@dataclass(frozen=True)
class Parts:
    """`started`: when the door was made, seconds since the epoch; models have no better date. `embedding`: None where there is no service."""

    settings: DoorSettings
    generation: AsyncGenerationClient
    embedding: AsyncEmbeddingClient | None
    metrics: Metrics
    started: int
