"""What a router can be told from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class RouterSettings(BaseSettings):
    """Environment variables SEMIEVOL_ROUTER_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_ROUTER_", frozen=True)

    address: str = "127.0.0.1:50057"
    """Where `python -m semievol.generation.router.server` listens: on loopback, the seventh of the suite's customary ports."""

    store: str = "artifacts"
    """URI of the artifact store, where models and aliases are read."""

    engines: Annotated[tuple[str, ...], NoDecode] = Field(default=("127.0.0.1:50053",), min_length=1)
    """Addresses of generation services, HOST:PORT, with commas between them. Each serves one base and, over this store, its adapters. Where a
    host name stands for several addresses, as a headless Service's does, each is an engine of its own; they are looked up with every check."""

    default_alias: str = "production"
    """What a call that names no model means, where there is such an alias; else the base."""

    cache_s: float = Field(default=1.0, ge=0)
    """How old what is known of models and aliases may be when a call begins: a promotion counts after at most so many seconds."""

    check_every_s: float = Field(default=2.0, gt=0)
    """How often engines are looked at. One that does not work is not asked until it does."""

    avoid_s: float = Field(default=5.0, ge=0)
    """How long an engine that failed a call is asked last, even though it looks well."""

    deadline_s: float = Field(default=3600.0, gt=0)
    """Longest work on a call whose client set no deadline: a page of long replies may take half an hour on a CPU."""

    max_adapters: int = Field(default=8, ge=1)
    """Adapters that an engine keeps loaded; beyond that, those go that the router loaded and that no alias and no recent call uses."""

    recent_s: float = Field(default=300.0, ge=0)
    """How long after its last call an adapter counts as in use."""

    @field_validator("engines", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(one.strip() for one in value.split(",") if one.strip()) if isinstance(value, str) else value
