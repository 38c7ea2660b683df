"""Routing: from a name to weights, from weights to an engine, and to another engine where that one fails. No wire types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Generic, TypeVar

from semievol.common import errors
from semievol.generation.router.catalog import CatalogView, Wanted
from semievol.generation.router.engines import Engine, Engines, L
from semievol.ports import BASE_MODEL, ModelInfo

T = TypeVar("T")

_SHOWN = 8  # names in a message

ELSEWHERE = (errors.Unavailable, errors.StorageError, errors.Busy, errors.Cancelled)
"""What another engine may do better at: this one is gone, cannot fetch an adapter, has too much to do, or is shutting down."""


class Router(Generic[L]):
    """`default_alias`, `avoid_s`, `max_adapters`, `recent_s`: as in RouterSettings. All methods belong to one event loop."""

    def __init__(
        self,
        view: CatalogView,
        engines: Engines[L],
        *,
        default_alias: str = "",
        avoid_s: float = 5.0,
        max_adapters: int = 8,
        recent_s: float = 300.0,
    ) -> None:
        self._view = view
        self.engines = engines
        self._default_alias = default_alias
        self._avoid_s = avoid_s
        self._max_adapters = max_adapters
        self._recent_s = recent_s
        self._trims: set[asyncio.Task[None]] = set()

    async def call(self, name: str, key: str, timeout_s: float, send: Callable[[L, str], Awaitable[T]]) -> tuple[Wanted, T]:
        """The reply of an engine, and which model gave it. `send(link, model)` does the whole call, and may do it again elsewhere.

        Raises NotFound, Conflict, Unavailable (all engines are away; each is named), and what an engine refuses with."""

        async def once(link: L, model: str) -> AsyncGenerator[T, None]:
            yield await send(link, model)

        async with aclosing(self.stream(name, key, timeout_s, once)) as replies:
            async for reply in replies:
                return reply
        raise AssertionError("unreachable")

    async def stream(
        self, name: str, key: str, timeout_s: float, start: Callable[[L, str], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[tuple[Wanted, T], None]:
        """The pieces of an engine's reply, as they come. It is asked of another engine only while nothing was passed on. Raises as `call`."""
        wanted = await self.choose(name, key)
        failed: list[tuple[Engine[L], errors.SemiEvolError]] = []
        while engine := self._pick(wanted, [one for one, _ in failed]):
            begun = False
            try:
                async with aclosing(self._asked(engine, wanted, timeout_s, start)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield wanted, piece
                return
            except ELSEWHERE as error:
                if isinstance(error, errors.Unavailable | errors.Cancelled):
                    engine.failed(error, self._avoid_s)
                if begun:
                    raise errors.Unavailable(f"The reply broke off, ask again: {error.message}") from error
                failed.append((engine, error))
        raise self._refusal(failed)

    async def choose(self, name: str, key: str) -> Wanted:
        """What a name means now, its base included. Raises NotFound listing what there is, Conflict, InvalidInput, Unavailable."""
        wanted = await self._resolved(name, key)
        if wanted.base:
            return wanted
        base = self.engines.base()
        assert base is not None
        return replace(wanted, base=base.base)

    async def models(self) -> list[ModelInfo]:
        """The base, the registered models that some engine can serve, by name, and what aliases point at."""
        catalog = await self._view.current()
        bases = self.engines.bases
        listed = [base if len(bases) == 1 else replace(base, name=base.base) for base in bases.values()]
        infos = {}
        for name in sorted(catalog.models):
            model = catalog.models[name]
            if served := bases.get(model.base):
                infos[name] = replace(served, name=name, adapter=model.uri, adapter_sha256=model.sha256)
        aliases = [
            replace(infos[alias.model], alias=alias.name) for _, alias in sorted(catalog.aliases.items()) if alias.model in infos
        ]
        return [*listed, *infos.values(), *aliases]

    async def check(self) -> None:
        """Looks at all engines. Raises Unavailable while none works (R12)."""
        await self.engines.look()
        if not self.engines.working:
            raise self.engines.away()

    async def close(self) -> None:
        for task in self._trims:
            task.cancel()
        await self._view.close()
        await self.engines.close()

    # -------------------------------------------------------------- names

    async def _resolved(self, name: str, key: str) -> Wanted:
        if name == BASE_MODEL:  # base weights need no store
            return Wanted()
        if name and self.engines.base(name):
            return Wanted(base=name)
        wanted = (await self._view.current()).resolve(name, key, self._default_alias)
        if wanted is not None:
            return wanted
        catalog = await self._view.current(0.0)  # made a moment ago, perhaps
        wanted = catalog.resolve(name, key, self._default_alias)
        if wanted is None:
            names = catalog.names()
            more = ", ..." if len(names) > _SHOWN else ""
            raise errors.NotFound(
                f"There is no alias or model {name!r}; known: {', '.join(names[:_SHOWN])}{more}.", field="model"
            )
        return wanted

    # -------------------------------------------------------------- engines

    def _pick(self, wanted: Wanted, without: Sequence[Engine[L]]) -> Engine[L] | None:
        """The engine with the fewest calls; of those the one that has the weights; one that is out of order only when all are."""
        rest = [engine for engine in self.engines.serving(wanted.base) if engine not in without]
        return min(rest, key=lambda one: (not one.trusted, one.calls, wanted.adapter not in one.loaded), default=None)

    async def _asked(
        self, engine: Engine[L], wanted: Wanted, timeout_s: float, start: Callable[[L, str], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        """One engine's reply; an engine that does not know the weights any more gets them again, once."""
        with engine.working(wanted.adapter):
            begun = again = False
            while True:
                await self._load(engine, wanted, timeout_s)
                try:
                    async with aclosing(start(engine.link, wanted.adapter)) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    return
                except errors.NotFound:
                    if begun or again or wanted.model is None:
                        raise
                    engine.forget(wanted.adapter)
                    again = True

    async def _load(self, engine: Engine[L], wanted: Wanted, timeout_s: float) -> None:
        if wanted.model is None or wanted.adapter in engine.loaded:
            return
        await engine.load(wanted, timeout_s)
        if len(engine.loaded) > self._max_adapters and self._view.known:
            keep = self._view.known.served_adapters()
            task = asyncio.create_task(engine.trim(self._max_adapters, keep, self._recent_s, timeout_s))
            self._trims.add(task)
            task.add_done_callback(self._trims.discard)

    def _refusal(self, failed: Sequence[tuple[Engine[L], errors.SemiEvolError]]) -> errors.SemiEvolError:
        """What to tell a call that no engine took: those that are only busy count first, since waiting helps."""
        busy = [error for _, error in failed if isinstance(error, errors.Busy)]
        if busy:
            return min(busy, key=lambda error: error.retry_after_s)
        stored = [error for _, error in failed if isinstance(error, errors.StorageError)]
        if len(stored) == len(failed):
            return stored[0]
        return self.engines.away({engine.address: error.message for engine, error in failed})
