"""What the embedding service can be told from outside."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from semievol.common.limits import MAX_PAGE_ROWS


class EmbeddingSettings(BaseSettings):
    """Environment variables SEMIEVOL_EMBEDDING_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_EMBEDDING_", frozen=True)

    address: str = "127.0.0.1:50051"
    """Where `python -m semievol.embedding.server` listens: gRPC's customary port, on loopback."""

    backend: Literal["sentence-transformers", "fake"] = "sentence-transformers"
    """What computes the vectors; `fake` is for tests."""

    model: str = "bundled:minilm-l6"
    """A directory, a hub id or bundled:NAME. The default needs no network: an installed package carries it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""

    batch_count: int = Field(default=32, ge=1)
    """Texts in one forward pass; 32 is sentence-transformers' own default."""

    max_batch_count: int = Field(default=MAX_PAGE_ROWS, ge=1)
    """Most texts in one call: the suite's common limit."""

    max_waiting_count: int = Field(default=64, ge=0)
    """Calls that may wait for the model; one more is told to come back (RESOURCE_EXHAUSTED). 64 pages are some minutes on a CPU."""
