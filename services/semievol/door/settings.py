"""What the OpenAI-compatible door can be told from outside."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from semievol.common import errors


class DoorSettings(BaseSettings):
    """Environment variables SEMIEVOL_DOOR_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_DOOR_", frozen=True)

    address: str = "127.0.0.1:8000"
    """Where it listens: on loopback, at the port that servers of this API customarily have. Port 0: any free one."""

    generation: str = "127.0.0.1:50053"
    """The generation service that answers: an engine, or a router in front of several."""

    embedding: str = "127.0.0.1:50051"
    """The embedding service behind /v1/embeddings; empty: none."""

    api_keys: SecretStr = SecretStr("")
    """Keys that open it, separated by commas: several, so that one can be replaced while the other is in use. None at all: open to everybody."""

    api_keys_file: Path | None = None
    """A file with such keys, one a line, in addition."""

    open_metrics: bool = False
    """Whether /metrics is read without a key."""

    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1)
    """Longest request body; a longer one is refused (413). The services themselves take messages of 32 MiB."""

    body_timeout_s: float = Field(default=30.0, gt=0)
    """Longest wait for a request's body: who sends it byte by byte keeps a place."""

    max_open_requests: int = Field(default=512, ge=1)
    """Requests at work at the same time; one more is told to come back (429)."""

    default_max_tokens: int = Field(default=0, ge=0)
    """Limit of a chat's reply that names none; 0: the room that the model has, as the public API has it."""

    deadline_s: float = Field(default=600.0, gt=0)
    """Longest that a request may take: the official client's own default."""

    grace_s: float = Field(default=10.0, ge=0)
    """How long requests in flight may go on after SIGTERM."""

    def keys(self) -> tuple[str, ...]:
        """Raises NotFound (the file cannot be read), InvalidInput (it holds no key: the door would stand open; or what is no key)."""
        named = self.api_keys.get_secret_value().split(",")
        keys = [key.strip() for key in [*named, *self._from_file()] if key.strip()]
        if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
            raise errors.InvalidInput(
                "An API key holds spaces or letters beyond ASCII, which no client can send.", field="api_keys"
            )
        return tuple(keys)

    def _from_file(self) -> list[str]:
        if self.api_keys_file is None:
            return []
        file = self.api_keys_file.expanduser()
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise errors.NotFound(
                f"The file of API keys, {file}, cannot be read: {errors.first_line(error)}.", field="api_keys_file"
            ) from error
        if not any(line.strip() for line in lines):
            raise errors.InvalidInput(f"The file of API keys, {file}, is empty; write one key a line.", field="api_keys_file")
        return lines
