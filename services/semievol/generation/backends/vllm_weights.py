"""Which engine answers with which weights, in one of two ways.

Hot: one engine, adapters loaded beside the base model's weights and named by each request. The default on a GPU.
Merged: engines that hold one set of weights each, at full speed; other weights are read into a running engine while nothing is in flight,
and believed once the canary says so. The default on a CPU, where vLLM computes an adapter 5 to 15 times slower than the model.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from semievol.common import errors
from semievol.generation.adapters import CONFIG, WEIGHTS, Adapter
from semievol.generation.backends.canary import unchanged
from semievol.generation.backends.vllm_merging import Merger, difference
from semievol.generation.backends.vllm_process import EngineDied, VllmProcess
from semievol.generation.core import check_cancel
from semievol.ports import Cancel

log = logging.getLogger(__name__)

Start = Callable[[Path], VllmProcess]
Canary = Callable[[VllmProcess, Any], Sequence[float]]  # an engine, an adapter of its own kind or None -> [L]
_POLL_S = 0.1
_SAVED_MODULES = ("classifier", "score")
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_EXTRAS = (
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "trainable_token_indices",
)


class VllmWeights(Protocol):
    """`starts`: engines started so far; `swaps`: weights read into a running one."""

    starts: int
    swaps: int

    def use(self, adapter: Adapter | None, cancel: Cancel) -> AbstractContextManager[tuple[VllmProcess, Any]]:
        """An engine that answers with this adapter, or without, while the context lasts, and what requests name it by there."""
        ...

    def add(self, adapter: Adapter) -> None:
        """Raises InvalidInput where the adapter does not fit; nothing has changed then."""
        ...

    def remove(self, name: str) -> None: ...

    def check(self) -> None:
        """Raises Unavailable while an engine is dead, and starts it again."""
        ...

    def close(self) -> None: ...


class HotWeights:
    """`max_rank`, `targets`: what the engine was started for."""

    def __init__(self, start: Start, base: Path, canary: Canary, max_rank: int, targets: Sequence[str]) -> None:
        self._start = start
        self._directory = base
        self._canary = canary
        self._max_rank, self._targets = max_rank, targets
        self._turn = threading.Lock()
        self._numbers = itertools.count(1)  # never used twice (R9)
        self._loras: dict[str, Any] = {}
        self.starts, self.swaps = 1, 0
        self._process = start(base)
        self._expected = tuple(canary(self._process, None))

    @contextmanager
    def use(self, adapter: Adapter | None, cancel: Cancel) -> Iterator[tuple[VllmProcess, Any]]:
        lora = self._loras.get(adapter.name) if adapter else None
        if adapter and lora is None:
            raise errors.NotFound(f"The model {adapter.name} was unloaded before its turn came.", field="model")
        yield self._living(), lora

    def add(self, adapter: Adapter) -> None:
        check_adapter(adapter, self._max_rank, self._targets)
        process = self._living()
        lora = process.lora(adapter.name, next(self._numbers), adapter.directory)
        process.add_lora(lora)
        if tuple(self._canary(process, lora)) == self._expected:
            process.remove_lora(lora)
            raise unchanged(adapter)
        self._loras[adapter.name] = lora

    def remove(self, name: str) -> None:
        if (lora := self._loras.pop(name, None)) is not None:
            self._process.remove_lora(lora)

    def check(self) -> None:
        if not self._process.alive:
            if not self._turn.locked():  # it is being started already
                threading.Thread(target=self._living, name="vllm-restart", daemon=True).start()
            raise _restarting()

    def close(self) -> None:
        self._process.close()

    def _living(self) -> VllmProcess:
        """The engine, started again if it has died; the adapters come back with the requests that name them."""
        with self._turn:
            if not self._process.alive:
                log.warning("The vLLM engine has died and is started again.")
                self._process.close()
                self._process = self._start(self._directory)
                self.starts += 1
            return self._process


@dataclass(eq=False)
class _Slot:
    """An engine (None: not started yet) and what it holds: an adapter's name, or None for the base model. `active` calls; `changing`: nobody
    may use it; `used`: when it was taken last."""

    process: VllmProcess | None
    holds: str | None
    active: int = 0
    changing: bool = False
    used: int = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    def close(self) -> None:
        if self.process is not None:
            self.process.close()


class MergedWeights:
    """At most `engines` engines. Calls for weights that one of them holds go on together; a call for others waits for an engine to fall
    idle, in order of arrival, so that neither kind of call starves."""

    def __init__(self, start: Start, base: Path, canary: Canary, merger: Merger, engines: int, tolerance: float) -> None:
        self._start = start
        self._base = base
        self._canary = canary
        self._merger = merger
        self._engines = engines
        self._tolerance = tolerance
        self._changed = threading.Condition()
        self._waiting: list[object] = []
        self._clock = itertools.count()
        self.starts, self.swaps = 1, 0
        first = start(base)
        self._slots = [_Slot(first, None)]
        self._expected = tuple(canary(first, None))

    @contextmanager
    def use(self, adapter: Adapter | None, cancel: Cancel) -> Iterator[tuple[VllmProcess, Any]]:
        slot = self._take(adapter, cancel)
        assert slot.process is not None
        try:
            yield slot.process, None
        finally:
            with self._changed:
                slot.active -= 1
                self._changed.notify_all()

    def add(self, adapter: Adapter) -> None:
        merged = self._merger.merged(adapter)
        if difference(merged.canary, self._expected) < self._tolerance / 100:
            raise unchanged(adapter)

    def remove(self, name: str) -> None:
        """The engine that holds it goes on until other weights are asked for; names never come back."""

    def check(self) -> None:
        with self._changed:
            down = [slot for slot in self._slots if not slot.alive]
        if dead := [slot for slot in down if not slot.changing and not slot.active]:
            threading.Thread(target=self._revive, args=(dead,), name="vllm-restart", daemon=True).start()
        if down:
            raise _restarting()

    def close(self) -> None:
        for slot in self._slots:
            slot.close()

    # ------------------------------------------------------------ who gets which engine

    def _take(self, adapter: Adapter | None, cancel: Cancel) -> _Slot:
        wanted = adapter.name if adapter else None
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while True:
                    first = self._waiting[0] is ticket
                    slot = self._holding(wanted, first) or (self._free() if first else None)
                    if slot is not None:
                        break
                    self._changed.wait(_POLL_S)
                    check_cancel(cancel)
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            slot.active += 1
            slot.used = next(self._clock)
            if slot.holds == wanted and slot.alive:
                return slot
            slot.changing = True
        try:
            self._change(slot, adapter)
        except BaseException:
            with self._changed:
                slot.active -= 1
            raise
        finally:
            with self._changed:
                slot.changing = False
                self._changed.notify_all()
        return slot

    def _holding(self, wanted: str | None, first: bool) -> _Slot | None:
        """An engine that has these weights. The one that who waits first will give others, if none falls idle before, takes no more calls."""
        draining = None if first else min(self._slots, key=lambda slot: slot.used)
        for slot in self._slots:
            if slot.holds == wanted and slot.alive and not slot.changing and slot is not draining:
                return slot
        return None

    def _free(self) -> _Slot | None:
        """An engine to change: a new one while there is room, else the one that was idle for longest."""
        if len(self._slots) < self._engines and all(slot.alive for slot in self._slots):
            self._slots.append(_Slot(None, None))
            return self._slots[-1]
        idle = [slot for slot in self._slots if slot.active == 0 and not slot.changing]
        return min(idle, key=lambda slot: (slot.alive, slot.used), default=None)

    def _change(self, slot: _Slot, adapter: Adapter | None) -> None:
        directory, expected = self._base, self._expected
        if adapter is not None:
            merged = self._merger.merged(adapter)
            directory, expected = merged.directory, merged.canary
        name = adapter.name if adapter else None
        if slot.process and slot.alive and self._swapped(slot.process, directory, expected):
            self.swaps += 1
        else:
            slot.close()
            slot.process = process = self._start(directory)
            self.starts += 1
            if (off := difference(self._canary(process, None), expected)) > self._tolerance:
                process.close()
                raise errors.InternalError(
                    f"{name or 'The base model'} answers {off:.3f} nats per token off what its weights give."
                )
        slot.holds = name

    def _swapped(self, process: VllmProcess, directory: Path, expected: Sequence[float]) -> bool:
        """Whether the engine now provably answers with these weights."""
        try:
            process.reload(directory)
            off = difference(self._canary(process, None), expected)
        except EngineDied as error:
            log.warning("The vLLM engine could not change its weights (%s) and is started again.", error)
            return False
        if off > self._tolerance:
            log.warning("After a change of weights the vLLM engine is %.3f nats per token off; it is started again.", off)
            return False
        return True

    def _revive(self, slots: Sequence[_Slot]) -> None:
        for slot in slots:
            with self._changed:
                if slot.alive or slot.changing or slot.active:
                    continue
                slot.changing = True
            try:
                self._change(slot, None)
            except errors.SemiEvolError as error:
                log.error("The vLLM engine does not start again: %s", error)
            finally:
                with self._changed:
                    slot.changing = False
                    self._changed.notify_all()


def check_adapter(adapter: Adapter, max_rank: int, targets: Sequence[str]) -> None:
    """What vLLM would refuse, or silently leave out, said before it sees the adapter. Raises InvalidInput naming the setting."""
    config = json.loads((adapter.directory / CONFIG).read_text())
    rank = max([int(config.get("r", 0)), *(config.get("rank_pattern") or {}).values()])
    if rank > max_rank:
        raise _refused(adapter, f"its rank is {rank}, and this engine takes up to {max_rank}: raise SEMIEVOL_VLLM_MAX_LORA_RANK")
    if saved := [one for one in config.get("modules_to_save") or [] if one not in _SAVED_MODULES]:
        raise _refused(
            adapter, f"it carries whole modules ({', '.join(saved)}): serve it merged (SEMIEVOL_GENERATION_ADAPTER_MODE)"
        )
    if config.get("bias", "none") != "none":
        raise _refused(adapter, "it trains biases: serve it merged (SEMIEVOL_GENERATION_ADAPTER_MODE)")
    for name in _EXTRAS:
        if config.get(name):
            raise _refused(adapter, f"vLLM does not know {name}: serve it merged (SEMIEVOL_GENERATION_ADAPTER_MODE)")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise _refused(adapter, f"it was begun by {init}, which changes the base weights: convert it to a plain LoRA")
    others = sorted({name for name in _modules(adapter) if name not in targets})
    if others:
        raise _refused(adapter, f"it changes {', '.join(others)}: name them in SEMIEVOL_VLLM_LORA_TARGET_MODULES")


def _modules(adapter: Adapter) -> Iterator[str]:
    """Last part of each changed module's name."""
    from safetensors import safe_open

    with safe_open(adapter.directory / WEIGHTS, "np") as file:
        for key in file.keys():  # noqa: SIM118  (no mapping)
            yield re.sub(r"\.lora_(A|B|embedding_A|embedding_B)(\..*)?$", "", key).rpartition(".")[2]


def _refused(adapter: Adapter, reason: str) -> errors.InvalidInput:
    return errors.InvalidInput(f"{adapter.uri} cannot be loaded into the running engine: {reason}.", field="uri")


def _restarting() -> errors.Unavailable:
    return errors.Unavailable("The vLLM engine has died and is started again; that takes about a minute.")
