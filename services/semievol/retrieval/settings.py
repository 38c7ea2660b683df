"""What the retrieval service can be told from outside."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class RetrievalSettings(BaseSettings):
    """Environment variables SEMIEVOL_RETRIEVAL_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_RETRIEVAL_", frozen=True)

    address: str = "127.0.0.1:50052"
    """Where `python -m semievol.retrieval.server` listens: next to the embedding service, on loopback."""

    backend: Literal["milvus", "fake"] = "milvus"
    """What holds the vectors; `fake` is for tests."""

    uri: str = "semievol-vectors.db"
    """A Milvus server (http://HOST:PORT), or a path ending in .db: Milvus Lite in this process, which needs no server."""

    token: SecretStr = SecretStr("")
    """`user:password` or an API key of the Milvus server; empty where it asks for none."""

    call_timeout_s: float = Field(default=30.0, gt=0)
    """How long one call to Milvus may take, its own retries included; searches of a page take about a second on a CPU."""

    worker_count: int = Field(default=4, ge=1)
    """Calls at work at once; they wait for Milvus more than they compute."""

    max_waiting_count: int = Field(default=64, ge=0)
    """Calls that may wait; one more is told to come back (RESOURCE_EXHAUSTED)."""
