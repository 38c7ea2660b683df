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

    backend: Literal["auto", "sentence-transformers", "tei", "fake"] = "auto"
    """What computes the vectors; `auto`: tei where `model` is a URL, else sentence-transformers. `fake` is for tests."""

    model: str = "bundled:minilm-l6"
    """A directory, a hub id, bundled:NAME, or the URL of a text-embeddings-inference server (its key: SEMIEVOL_TEI_API_KEY, or
    SEMIEVOL_TEI_API_KEY_FILE). The default needs no network: an installed package carries it."""

    timeout_s: float = Field(default=120.0, gt=0)
    """Longest wait for a server's answer to one batch. A CPU computes 32 long texts with a large model in a minute."""

    check_every_s: float = Field(default=10.0, gt=0)
    """How often a server elsewhere is looked at; while it does not work, health says NOT_SERVING."""

    server_calls: int = Field(default=4, ge=1)
    """Calls to a server at the same time: it forms its batches across them. A model in this process takes one at a time."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""

    batch_count: int = Field(default=32, ge=1)
    """Texts in one forward pass; 32 is sentence-transformers' own default."""

    max_batch_count: int = Field(default=MAX_PAGE_ROWS, ge=1)
    """Most texts in one call: the suite's common limit."""

    max_waiting_count: int = Field(default=64, ge=0)
    """Calls that may wait for the model; one more is told to come back (RESOURCE_EXHAUSTED). 64 pages are some minutes on a CPU."""
