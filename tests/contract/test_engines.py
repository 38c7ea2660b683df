"""What all engines of runs do: the fake and pods on a (fake) API server with one GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from semievol.common import errors
from semievol.launchers.fake_engines import FakeEngines
from semievol.ports import Engines, EngineState

from tests.engine_cluster import Cluster

RUN, OTHER = "townhall-1a2b3c4d", "news-5e6f7a8b"


class World:
    """Engines on one GPU. `cut`: whoever starts them is away from now on; `settle`: what was told to end has ended."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.engines: Engines
        if kind == "fake":
            fake = FakeEngines(looks=1, slow_end=True)
            self.engines, self.cut, self.settle = fake, lambda: setattr(fake, "away", True), lambda: None
            return
        cluster = Cluster(directory)
        self.engines, self.cut = cluster.engines(), lambda: setattr(cluster.server, "down", True)
        self.settle: Callable[[], None] = cluster.schedule

    def answer(self, run: str, slot: str) -> EngineState:
        """After as many looks as it takes."""
        for _ in range(5):
            state = self.engines.acquire(run, slot)
            if state.address:
                return state
            self.settle()
        return state

    def gone(self, run: str, slot: str = "") -> None:
        for _ in range(5):
            if self.engines.release(run, slot):
                self.settle()
                return
        pytest.fail("It does not go.")


@pytest.fixture(params=["fake", "pods"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(request.param, tmp_path)


def test_an_engine_that_is_on_its_way_says_so_and_has_no_address(world: World) -> None:
    state = world.engines.acquire(RUN, "shared")
    assert (state.address, state.failed, state.crowded) == ("", False, False)
    assert "shared" in state.reason
    assert world.answer(RUN, "shared").reason == ""


def test_acquiring_again_starts_nothing(world: World) -> None:
    first = world.answer(RUN, "shared")
    assert world.answer(RUN, "shared").address == first.address
    assert world.engines.used(RUN)[0] == 1


def test_engines_belong_to_their_runs(world: World) -> None:
    world.answer(RUN, "shared")
    assert world.engines.held(RUN) == ["shared"]
    assert world.engines.held(OTHER) == []
    world.gone(OTHER)
    assert world.engines.held(RUN) == ["shared"]


def test_without_room_an_engine_waits_with_a_reason_until_another_one_goes(world: World) -> None:
    world.answer(RUN, "base-0")
    waiting = world.answer(RUN, "warm-2")
    assert (waiting.address, waiting.crowded) == ("", True)
    assert "Insufficient nvidia.com/gpu" in waiting.reason
    world.gone(RUN, "base-0")
    assert world.answer(RUN, "warm-2").address
    assert world.engines.held(RUN) == ["warm-2"]


def test_what_was_released_is_started_anew_and_counted_again(world: World) -> None:
    world.answer(RUN, "shared")
    world.gone(RUN)
    assert world.engines.held(RUN) == []
    assert world.answer(RUN, "shared").address
    assert world.engines.used(RUN) == (2, 0)


def test_releasing_what_is_not_there_is_no_error(world: World) -> None:
    assert world.engines.release(RUN) is True
    assert world.engines.release(RUN, "warm-2") is True


def test_whoever_starts_engines_being_away_is_unavailable(world: World) -> None:
    world.cut()
    for call in (
        lambda: world.engines.acquire(RUN, "shared"),
        lambda: world.engines.held(RUN),
        lambda: world.engines.release(RUN),
    ):
        with pytest.raises(errors.Unavailable):
            call()
