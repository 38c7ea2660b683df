"""What names mean: aliases and models as the artifact store has them, read without the controller.

A `Catalog` is a snapshot, and resolving a name in it is a pure function. A `CatalogView` keeps one that is young enough, and the last one
known while the store is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from semievol.common import errors
from semievol.common.keys import adapter_name, derive_seed
from semievol.common.records import read_record
from semievol.common.registry import FULL_WEIGHT, Alias, Model, model_from_record, replayed
from semievol.ports import BASE_MODEL, ObjectStore

log = logging.getLogger(__name__)

_BUCKETS = 10_000
_PATIENCE_S = 2.0  # longest that a call waits for the store while something is known already
_AWAY_S = 1.0  # how often a store that is away is tried


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks for. `model` is None for base weights; `base` is the base's name, empty where the only one there is is meant."""

    model: Model | None = None
    alias: str = ""
    base: str = ""

    @property
    def name(self) -> str:
        return self.model.name if self.model else BASE_MODEL

    @property
    def adapter(self) -> str:
        """What engines call these weights (R9)."""
        return adapter_name(self.model.sha256) if self.model else BASE_MODEL


@dataclass(frozen=True, slots=True)
class Catalog:
    models: Mapping[str, Model] = field(default_factory=dict)
    aliases: Mapping[str, Alias] = field(default_factory=dict)

    def resolve(self, name: str, key: str, default_alias: str = "") -> Wanted | None:
        """A model's name, an alias, or `base`; empty: the default alias if there is one, else the base. None for a name that is none of
        these. Equal keys get equal models while an alias's weights stand; an empty key is drawn. Raises Conflict (an alias of a model
        that is gone)."""
        if not name:
            name = default_alias if default_alias in self.aliases else BASE_MODEL
        if name == BASE_MODEL:
            return Wanted()
        if model := self.models.get(name):  # before aliases: under a model's name no other weights may answer
            return Wanted(model, base=model.base)
        if alias := self.aliases.get(name):
            drawn = self._drawn(alias, key)
            return Wanted(drawn, alias.name, drawn.base)
        return None

    def served_adapters(self) -> set[str]:
        """Engines' names of all that an alias sends calls to."""
        return {
            Wanted(self.models[name]).adapter for alias in self.aliases.values() for name in alias.serves if name in self.models
        }

    def names(self) -> list[str]:
        return [*sorted(self.aliases), *sorted(self.models), BASE_MODEL]

    def _drawn(self, alias: Alias, key: str) -> Model:
        model = self.models.get(alias.canary if alias.canary and gets_canary(alias, key) else alias.model)
        model = model or self.models.get(alias.model)
        if model is None:
            raise errors.Conflict(
                f"The alias {alias.name} points at {alias.model}, which is registered no more; promote another model.",
                field="model",
            )
        return model


def gets_canary(alias: Alias, key: str) -> bool:
    """Whether calls with this key go to the alias's canary. A larger weight takes keys from the main model only; another canary draws anew."""
    if not key:
        return secrets.randbelow(FULL_WEIGHT) < alias.weight
    return derive_seed("routing key", alias.name, alias.canary, key) % _BUCKETS < alias.weight * _BUCKETS // FULL_WEIGHT


class CatalogReader:
    """Reads the store; what never changes (a change of an alias, a model's record) once. Not for concurrent use."""

    def __init__(self, open_store: Callable[[], ObjectStore]) -> None:
        self._open_store = open_store
        self._store: ObjectStore | None = None
        self._records: dict[tuple[str, int], dict[str, Any]] = {}  # by path and size: a damaged record is written anew
        self._damaged: set[tuple[str, int]] = set()

    def read(self) -> Catalog:
        """A record that is damaged is logged, once, and left out: the model is not known, the alias stays as it was before that change.
        Raises what the store raises."""
        if self._store is None:
            self._store = self._open_store()
        models, changes = {}, dict[str, list[dict[str, Any]]]()
        seen = {}
        for info in [*self._store.list("models/"), *self._store.list("aliases/")]:
            record = self._record(self._store, info.path, info.size)
            if record is None:
                continue
            seen[info.path, info.size] = record
            kind, name, *_ = info.path.split("/")
            if kind == "aliases":
                changes.setdefault(name, []).append(record)
                continue
            with self._leaving_out(info.path, info.size):
                model = model_from_record(record, info.path)
                models[model.name] = model
        self._records = seen
        aliases = {}
        for name, mine in changes.items():
            with self._leaving_out(f"aliases/{name}", len(mine)):
                if alias := replayed(name, mine):
                    aliases[name] = alias
        return Catalog(models, aliases)

    def _record(self, store: ObjectStore, path: str, size: int) -> dict[str, Any] | None:
        if (path, size) in self._records:
            return self._records[path, size]
        with self._leaving_out(path, size):
            return read_record(store, path)
        return None

    @contextlib.contextmanager
    def _leaving_out(self, path: str, size: int) -> Iterator[None]:
        try:
            yield
        except (errors.Corrupt, errors.NotFound, KeyError, TypeError) as error:  # not found: deleted meanwhile
            if (path, size) not in self._damaged:
                log.warning("%s cannot be read and is left out: %s", path, error)
            self._damaged.add((path, size))


class CatalogView:
    """The catalog for calls on one event loop, at most `cache_s` seconds old when a call begins as long as the store answers."""

    def __init__(self, read: Callable[[], Catalog], cache_s: float) -> None:
        self._read = read
        self._cache_s = cache_s
        self._read_at = -float("inf")  # when the reading of what is known began
        self._refresh: asyncio.Task[None] | None = None
        self._away = False
        self._tried_at = -float("inf")
        self.known: Catalog | None = None

    async def current(self, cache_s: float | None = None) -> Catalog:
        """Raises Unavailable where nothing was ever read and the store is away."""
        allowed = self._cache_s if cache_s is None else cache_s
        begun = time.monotonic()
        for _ in range(2):  # a reading that was under way already may be older than what is asked for
            if self.known is not None and self._read_at >= begun - allowed:
                return self.known
            await self._refreshed()
        if self.known is None:
            raise errors.Unavailable(
                "The artifact store cannot be read, so that no alias and no model is known yet; try again.", retry_after_s=_AWAY_S
            )
        return self.known

    async def close(self) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait({self._refresh})

    async def _refreshed(self) -> None:
        """Waits for the next reading, but not for a store that is away while something is known."""
        if self._refresh is None or self._refresh.done():
            if self._away and time.monotonic() - self._tried_at < _AWAY_S:
                return
            self._refresh = asyncio.create_task(self._reading())
        if self.known is None:
            await asyncio.shield(self._refresh)
        elif not self._away:
            await asyncio.wait({self._refresh}, timeout=_PATIENCE_S)

    async def _reading(self) -> None:
        self._tried_at = started = time.monotonic()
        try:
            catalog = await asyncio.to_thread(self._read)
        except Exception as error:  # whatever a store that is far away can think of
            if not self._away:
                log.error("The artifact store cannot be read; models and aliases stay as they were: %s", error)
            self._away = True
            return
        if self._away:
            log.info("The artifact store can be read again.")
        self.known, self._read_at, self._away = catalog, started, False
