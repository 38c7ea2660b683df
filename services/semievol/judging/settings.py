"""What the judging service can be told from outside."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from semievol.common.limits import MAX_PAGE_ROWS


class JudgingSettings(BaseSettings):
    """Environment variables SEMIEVOL_JUDGING_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_JUDGING_", frozen=True)

    address: str = "127.0.0.1:50054"
    """Where `python -m semievol.judging.server` listens: the fourth of the suite's ports, on loopback."""

    generation_address: str = "127.0.0.1:50053"
    """Where the judging model answers: the generation service's own default."""

    max_batch_count: int = Field(default=MAX_PAGE_ROWS, ge=1)
    """Most rows in one Judge call: the suite's common limit."""

    thread_count: int = Field(default=4, ge=1)
    """Calls at work at the same time; they wait for generation nearly all the time, and four keep it busy."""

    max_waiting_count: int = Field(default=64, ge=0)
    """Calls that may wait for a thread; one more is told to come back (RESOURCE_EXHAUSTED)."""

    check_every_s: float = Field(default=2.0, gt=0)
    """How often a service that starts looks whether its generation service is there."""
