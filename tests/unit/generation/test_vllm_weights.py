"""Which engine answers with which weights: swaps that prove themselves, restarts that follow, and who waits for whom. Engines are doubles."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from semievol.common import errors
from semievol.generation.adapters import Adapter
from semievol.generation.backends.vllm_merging import Merged
from semievol.generation.backends.vllm_process import EngineDied
from semievol.generation.backends.vllm_weights import MergedWeights
from semievol.ports import NEVER

BASE = Path("base")
CANARIES = {"base": (-1.0, -1.0), "warm": (-2.0, -2.0), "evolved": (-3.0, -3.0)}


class ProcessDouble:
    """An engine that knows which directory it has read. `deaf`: it keeps its weights, whatever it is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.alive = True
        self.deaf = False
        self.reloaded: list[str] = []

    def reload(self, directory: Path) -> None:
        if not self.alive:
            raise EngineDied
        self.reloaded.append(directory.name)
        if not self.deaf:
            self.directory = directory

    def close(self) -> None:
        self.alive = False


class MergerDouble:
    def merged(self, adapter: Adapter) -> Merged:
        return Merged(Path(adapter.name), CANARIES[adapter.name])


def adapter(name: str) -> Adapter:
    return Adapter(name, f"artifact:{name}", Path(name), name, (name, name))


WARM, EVOLVED = adapter("warm"), adapter("evolved")


class World:
    def __init__(self, engines: int = 1) -> None:
        self.started: list[ProcessDouble] = []

        def start(directory: Path) -> Any:
            self.started.append(ProcessDouble(directory))
            return self.started[-1]

        def canary(process: Any, _: Any) -> Sequence[float]:
            return CANARIES[process.directory.name]

        self.weights = MergedWeights(start, BASE, canary, MergerDouble(), engines, 0.01)  # type: ignore[arg-type]

    @contextmanager
    def using(self, wanted: Adapter | None) -> Iterator[Any]:
        with self.weights.use(wanted, NEVER) as (process, _):
            yield process

    def answers_with(self, wanted: Adapter | None) -> str:
        with self.using(wanted) as process:
            return str(process.directory.name)


def test_other_weights_are_read_into_the_running_engine() -> None:
    world = World()
    assert [world.answers_with(one) for one in (None, WARM, WARM, EVOLVED, None)] == ["base", "warm", "warm", "evolved", "base"]
    assert (world.weights.starts, world.weights.swaps) == (1, 3)


def test_an_engine_that_does_not_prove_its_new_weights_is_started_anew() -> None:
    world = World()
    world.started[0].deaf = True
    assert world.answers_with(WARM) == "warm"
    assert (world.weights.starts, world.weights.swaps) == (2, 0)
    assert not world.started[0].alive


def test_a_dead_engine_is_started_with_the_weights_that_are_wanted() -> None:
    world = World()
    world.started[0].alive = False
    with pytest.raises(errors.Unavailable):
        world.weights.check()
    assert world.answers_with(WARM) == "warm"
    assert [one.directory.name for one in world.started[1:]][-1] in ("warm", "base")


def test_dedicated_engines_hold_their_weights() -> None:
    world = World(engines=3)
    for _ in range(3):
        assert [world.answers_with(one) for one in (None, WARM, EVOLVED)] == ["base", "warm", "evolved"]
    assert (world.weights.starts, world.weights.swaps) == (3, 0)


def test_calls_for_the_same_weights_go_on_together_and_one_for_others_gets_its_turn() -> None:
    """While somebody waits for other weights, no further call joins: or else the wait would have no end under traffic."""
    world = World()
    order: list[str] = []
    first_may_end = threading.Event()

    def hold() -> None:
        with world.using(None):
            first_may_end.wait(10)
            order.append("first")

    def ask(wanted: Adapter | None, name: str) -> None:
        with world.using(wanted):
            order.append(name)

    holder = threading.Thread(target=hold)
    holder.start()
    while not world.weights._slots[0].active:
        time.sleep(0.01)
    ask(None, "together")
    threads = []
    for wanted, name in ((WARM, "other"), (None, "later")):
        threads.append(threading.Thread(target=ask, args=(wanted, name)))
        threads[-1].start()
        while len(world.weights._waiting) < len(threads):
            time.sleep(0.01)
    first_may_end.set()
    for thread in (holder, *threads):
        thread.join(10)
    assert order == ["together", "first", "other", "later"]


def test_a_call_that_waits_can_be_cancelled() -> None:
    world = World()
    cancel = threading.Event()
    with world.using(None):
        threading.Timer(0.1, cancel.set).start()
        with pytest.raises(errors.Cancelled), world.weights.use(WARM, cancel):
            pass
    assert world.answers_with(WARM) == "warm"


def test_an_adapter_that_changes_nothing_is_refused() -> None:
    world = World()
    with pytest.raises(errors.InvalidInput, match="changes nothing"):
        world.weights.add(adapter("base"))
