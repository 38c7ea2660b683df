"""The engines behind a router: what each serves, how much it has to do, which adapters it holds, and whether it is worth asking."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from semievol.common import errors
from semievol.common.keys import adapter_name
from semievol.generation.router.catalog import Wanted
from semievol.generation.router.names import Names, host_of
from semievol.ports import BASE_MODEL, ModelInfo

log = logging.getLogger(__name__)

_LOOK_S = 2.0  # an engine that works answers at once, whatever its model is doing
_MOST_SLOW = (
    3  # looks in a row that may take too long: a machine that is overloaded, the router's own too, is not one that is dead
)
_RETRY_S = 1.0  # what a call is told to wait: an engine that is started again is found within some seconds
_SHOWN = 160  # characters of a reason


class Link(Protocol):
    """A connection to one engine. All raise Unavailable, Busy, DeadlineExceeded, Cancelled (the engine is shutting down)."""

    address: str

    async def look(self, timeout_s: float) -> list[ModelInfo]:
        """What it serves, the base first; Unavailable too where it says that it does not work."""
        ...

    async def load_adapter(self, name: str, uri: str, timeout_s: float) -> ModelInfo:
        """Raises as AdapterHost.load_adapter."""
        ...

    async def unload_adapter(self, name: str, timeout_s: float) -> None: ...

    async def close(self) -> None: ...


L = TypeVar("L", bound=Link)


class Engine(Generic[L]):
    """One engine as its router knows it. `base`: None before it has answered. `fault`: why it does not work; empty where it does.

    `loaded` holds adapters whose weights are what their names say (R9): what somebody else loaded under such a name counts only then."""

    def __init__(self, link: L) -> None:
        self.link = link
        self.base: ModelInfo | None = None
        self.fault = "it was not asked yet"
        self.calls = 0  # at work here
        self.loaded: dict[str, float] = {}  # adapter -> when a call last used it
        self._slow = 0  # looks in a row that took too long
        self._avoided_until = 0.0
        self._ours: set[str] = set()  # those that the router loaded
        self._at_work: Counter[str] = Counter()
        self._loading = asyncio.Lock()

    @property
    def address(self) -> str:
        return self.link.address

    @property
    def trusted(self) -> bool:
        return not self.fault and not self._slow and time.monotonic() >= self._avoided_until

    async def look(self) -> None:
        """Finds out whether it works and what it holds. Raises nothing that an engine can do wrong."""
        try:
            base, *adapters = await self.link.look(_LOOK_S)
        except errors.SemiEvolError as error:
            self._slow = self._slow + 1 if isinstance(error, errors.DeadlineExceeded) else 0
            if 0 < self._slow < _MOST_SLOW:
                return
            if not self.fault:
                log.warning("An engine does not work: %s", error.message)
            self.fault = error.message
            return
        if self.fault:
            log.info("The engine at %s serves %s.", self.address, base.base)
        self.base, self.fault, self._slow = base, "", 0
        names = {one.name for one in adapters if one.name == adapter_name(one.adapter_sha256)}
        self.loaded = {name: self.loaded.get(name, time.monotonic()) for name in names}
        self._ours &= names

    def failed(self, error: errors.SemiEvolError, avoid_s: float) -> None:
        """A call did not get through: others are asked first for a while."""
        log.warning("An engine failed a call: %s", error.message)
        self._avoided_until = time.monotonic() + avoid_s

    @contextmanager
    def working(self, adapter: str) -> Iterator[None]:
        """Counts a call."""
        self.calls += 1
        self._at_work[adapter] += 1
        try:
            yield
        finally:
            self.calls -= 1
            self._at_work[adapter] -= 1
            if adapter in self.loaded:
                self.loaded[adapter] = time.monotonic()

    async def load(self, wanted: Wanted, timeout_s: float) -> None:
        """Makes the weights servable here, once for all calls that want them. Raises as AdapterHost.load_adapter, and Corrupt where the
        artifact is not what the registry says."""
        if wanted.model is None or wanted.adapter in self.loaded:
            return
        async with self._loading:
            if wanted.adapter in self.loaded:
                return
            info = await self.link.load_adapter(wanted.adapter, wanted.model.uri, timeout_s)
            if info.adapter_sha256 != wanted.model.sha256:
                raise errors.Corrupt(
                    f"{wanted.model.uri} is not the adapter that the model {wanted.name} was registered with (sha256 "
                    f"{info.adapter_sha256[:12]}, not {wanted.model.sha256[:12]}); run its run file again, or promote another model."
                )
            self.loaded[wanted.adapter] = time.monotonic()
            self._ours.add(wanted.adapter)

    def forget(self, adapter: str) -> None:
        """It is not loaded after all: the engine has been started again."""
        self.loaded.pop(adapter, None)

    async def trim(self, most: int, keep: Collection[str], recent_s: float, timeout_s: float) -> None:
        """Unloads what the router loaded and nobody uses, the longest unused first, until `most` are left. Best effort."""
        before = time.monotonic() - recent_s
        spare = sorted(
            (used, name)
            for name, used in self.loaded.items()
            if name in self._ours and name not in keep and used <= before and not self._at_work[name]
        )
        for _, name in spare[: max(0, len(self.loaded) - most)]:
            self.forget(name)  # first, so that a call that wants it from now on loads it
            self._ours.discard(name)
            try:
                await self.link.unload_adapter(name, timeout_s)
            except errors.SemiEvolError as error:
                log.warning("The adapter %s stays loaded: %s", name, error.message)


class Engines(Generic[L]):
    """All engines of a router, in the order of its settings, as of the last look. `connect`: given an address and the host whose address it is
    (empty: it stands in the settings itself)."""

    def __init__(self, names: Names, connect: Callable[[str, str], L]) -> None:
        self._names = names
        self._connect = connect
        self.all: list[Engine[L]] = []
        self._name_of: dict[str, str] = {}  # address -> the name behind which it is, or was last
        self._served: dict[str, ModelInfo] = {}  # name -> the base that was served behind it last
        self._leaving: list[Engine[L]] = []

    async def look(self) -> None:
        """Finds out which engines there are, and how they are."""
        await self._gather()
        await asyncio.gather(*(engine.look() for engine in self.all))
        self._served |= {self._name_of[engine.address]: engine.base for engine in self.all if engine.base}

    async def close(self) -> None:
        self._names.close()
        await asyncio.gather(*(engine.link.close() for engine in (*self.all, *self._leaving)))

    async def _gather(self) -> None:
        """Takes in engines that have come. One that has gone is asked nothing more, and its connection ends with its last call."""
        found = await self._names.look()
        self._name_of = {address: name for name, addresses in found.items() for address in addresses}
        known = {engine.address: engine for engine in self.all}
        for address in known.keys() - self._name_of.keys():
            log.info("The engine at %s is gone.", address)
            self._leaving.append(known[address])
        self.all = [
            known.get(address) or Engine(self._connect(address, host_of(name))) for address, name in self._name_of.items()
        ]
        over = [engine for engine in self._leaving if not engine.calls]
        self._leaving = [engine for engine in self._leaving if engine.calls]
        await asyncio.gather(*(engine.link.close() for engine in over))

    @property
    def bases(self) -> dict[str, ModelInfo]:
        """What is served, by its own name, or was served last behind a name that has no engine now."""
        return {one.base: one for one in (*self._served.values(), *(engine.base for engine in self.all if engine.base))}

    @property
    def working(self) -> list[Engine[L]]:
        return [engine for engine in self.all if not engine.fault]

    def base(self, name: str = "") -> ModelInfo | None:
        """The base of this name, or, without one, the only base there is; None if no engine has it. Raises InvalidInput (which of several),
        Unavailable (no engine has ever answered)."""
        bases = self.bases
        if not bases:
            raise self.away()
        if name:
            return bases.get(name)
        if len(bases) > 1:
            raise errors.InvalidInput(
                f"The engines serve several base models: name one of {', '.join(sorted(bases))} instead of {BASE_MODEL!r}.",
                field="model",
            )
        return next(iter(bases.values()))

    def serving(self, base: str) -> list[Engine[L]]:
        """The engines of this base, those that do not work at present included. Raises Conflict where there are none, Unavailable where
        one that never answered may be one."""
        found = [engine for engine in self.all if engine.base and engine.base.base == base]
        unknown = self._names.faults or any(engine.base is None for engine in self.all)
        if not found and (unknown or base in self.bases):
            raise self.away()
        if not found:
            served = ", ".join(sorted(self.bases))
            raise errors.Conflict(f"The model was made from {base}, and the engines here serve {served}.", field="model")
        return found

    def away(self, reasons: Mapping[str, str] | None = None) -> errors.Unavailable:
        """Names engines with what is wrong with them: those given, or all that do not work, and names without any."""
        reasons = reasons or {engine.address: engine.fault for engine in self.all if engine.fault} | self._names.faults
        named = "; ".join(
            (reason if address in reason else f"{address}: {reason}")[:_SHOWN] for address, reason in reasons.items()
        )
        return errors.Unavailable(f"No engine answers ({named}). Start one, or try again.", retry_after_s=_RETRY_S)
