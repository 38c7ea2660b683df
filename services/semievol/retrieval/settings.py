"""What the retrieval service can be told from outside."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RetrievalSettings(BaseSettings):
    """Environment variables SEMIEVOL_RETRIEVAL_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_RETRIEVAL_", frozen=True)

    address: str = "127.0.0.1:50052"
    """Where `python -m semievol.retrieval.server` listens: next to the embedding service, on loopback."""

    backend: Literal["milvus", "fake"] = "milvus"
    """What holds the vectors; `fake` is for tests."""

    uri: str = "semievol-vectors.db"
    """A Milvus server (http[s]://HOST:PORT), or a path ending in .db: Milvus Lite in this process, which needs no server. The server's token,
    `user:password` or an API key, is SEMIEVOL_MILVUS_TOKEN, or in the file that SEMIEVOL_MILVUS_TOKEN_FILE names."""

    database: str = ""
    """Which of the server's databases; empty for its default one. Milvus Lite has only that."""

    call_timeout_s: float = Field(default=30.0, gt=0)
    """How long one call to Milvus may take; searches of a page take about a second on a CPU."""

    check_every_s: float = Field(default=2.0, gt=0)
    """How often a search is tried; while none works, health says NOT_SERVING."""

    check_timeout_s: float = Field(default=5.0, gt=0)
    """How long that search may take. One that Milvus has to wait for its own clock for takes a quarter of a second."""

    worker_count: int = Field(default=4, ge=1)
    """Calls at work at once; they wait for Milvus more than they compute."""

    max_waiting_count: int = Field(default=64, ge=0)
    """Calls that may wait; one more is told to come back (RESOURCE_EXHAUSTED)."""
