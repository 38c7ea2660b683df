"""Whole runs that have engines of their own: when they come and go, and that nothing else changes by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semievol.common import errors
from semievol.controller.engines import ServingStays
from semievol.controller.pods import Answering
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.launchers.fake_engines import FakeEngines
from semievol.ports import EngineState

from tests.fake_suite import Suite, fake_suite, wait_for
from tests.manifests import manifests

PHASES = ["start shared", "end shared", "start shared", "end shared"]  # before and after the evolved model is trained


@dataclass
class Yielding(ServingStays):
    """Serving engines that say that they are away."""

    away: bool = False
    recovered: list[str] = field(default_factory=list)

    def yield_to(self, run: str) -> str:
        self.away = True
        return "The serving engines have made room."

    def restore(self, run: str) -> None:
        self.away = False


def with_engines(
    engines: FakeEngines, serving: Yielding | None = None, recovered: list[str] | None = None
) -> Callable[[str], Answering]:
    """The suite's own generation service stands for each engine."""

    def answering(address: str) -> Answering:
        engines.address = address
        return Answering(engines, serving or ServingStays(), (recovered if recovered is not None else []).extend)

    return answering


def step(suite: Suite, run: str, name: str) -> Any:
    return next(one for one in suite.client.get_run(run).steps if f"{one.iteration}/{one.name}" == name)


def test_a_run_with_engines_of_its_own_makes_the_same_artifacts(tmp_path: Path) -> None:
    """The judge step without the judging service included."""
    with fake_suite(tmp_path / "fixed") as suite:
        suite.run(suite.spec())
        fixed = manifests(suite.home)
    engines = FakeEngines(looks=2, slow_end=True)
    with fake_suite(tmp_path / "own", engines_of=with_engines(engines)) as suite:
        result = suite.run(suite.spec())
        assert result["error"] == ""
        assert manifests(suite.home) == fixed
    assert engines.log == PHASES
    assert result["engines"] == {"starts": 2, "swaps": 0}


def test_a_step_that_waits_for_an_engine_says_why(tmp_path: Path) -> None:
    engines = FakeEngines(gpus=0)
    with fake_suite(tmp_path, engines_of=with_engines(engines)) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(engines.there))
        wait_for(lambda: "Insufficient nvidia.com/gpu" in step(suite, run, "1/infer/warm-0").waiting_reason)
        engines.gpus = 1
        for _ in suite.client.watch(run):
            pass
        assert suite.client.get_run(run).state == pb.STATE_SUCCEEDED
        assert {one.waiting_reason for one in suite.client.get_run(run).steps} == {""}


def test_a_cancelled_run_leaves_no_engine(tmp_path: Path) -> None:
    engines, serving = FakeEngines(gpus=0, slow_end=True), Yielding()
    with fake_suite(tmp_path, engines_of=with_engines(engines, serving)) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(engines.there))
        assert serving.away
        suite.client.cancel_run(run)
        assert engines.there == []
        assert not serving.away


def test_a_run_that_fails_leaves_no_engine(tmp_path: Path) -> None:
    engines = FakeEngines(fails=["It has no weights."])
    with fake_suite(tmp_path, engines_of=with_engines(engines)) as suite:
        result = suite.run(suite.spec())
    assert result["state"] == "failed"
    assert "It has no weights." in result["error"]
    assert engines.there == []


def test_a_restarted_product_goes_on_with_the_engines_that_are_there(tmp_path: Path) -> None:
    engines, recovered = FakeEngines(gpus=0), []  # type: ignore[var-annotated]
    with fake_suite(tmp_path, engines_of=with_engines(engines)) as suite:
        spec = suite.spec()
        run = suite.client.submit(spec).id
        wait_for(lambda: bool(engines.there))
    assert [one.slot for one in engines.there] == ["shared"]  # stopping the controller ends no engine
    engines.gpus = 1
    with fake_suite(tmp_path, engines_of=with_engines(engines, recovered=recovered)) as suite:
        engines.there[0].address = engines.address  # the service of this process
        result = suite.run(spec)
    assert (result["run"], result["error"]) == (run, "")
    assert engines.log == PHASES
    assert result["engines"]["starts"] == 2


class Dying(FakeEngines):
    """Whose first engine is dead after a few calls for its address: it is answered at an address where nobody is."""

    calls = 0

    def acquire(self, run: str, slot: str) -> EngineState:
        state = super().acquire(run, slot)
        self.calls += bool(state.address)
        if state.address and self.calls == 2:
            self.die(slot)
            return EngineState("127.0.0.1:1")
        return state


def test_a_step_whose_engine_dies_is_tried_again_with_the_next_one(tmp_path: Path) -> None:
    engines = Dying()
    with fake_suite(tmp_path, engines_of=with_engines(engines), backoff_s=0.01) as suite:
        result = suite.run(suite.spec())
        failed = [event.step_failed for event in suite.client.watch(result["run"]) if event.WhichOneof("event") == "step_failed"]
    assert result["error"] == ""
    assert [(one.exit_code, one.will_retry) for one in failed] == [(errors.Unavailable.exit_code, True)]
    assert result["engines"]["starts"] == 3


def test_whoever_looks_is_told_that_serving_is_away(tmp_path: Path) -> None:
    engines, serving = FakeEngines(gpus=0), Yielding()
    with fake_suite(tmp_path, engines_of=with_engines(engines, serving)) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: list(suite.client.get_run(run).notes) == ["The serving engines have made room."])
        suite.client.cancel_run(run)
        assert list(suite.client.get_run(run).notes) == []
