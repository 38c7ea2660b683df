"""Which engine answers which step, and when: a run is driven through a make-believe world, its engines are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from semievol.common import errors
from semievol.common.runspec import RunSpec
from semievol.common.stores.local import LocalStore
from semievol.controller.engines import EngineTurns, FixedEngines, ServingStays
from semievol.controller.known import KnownBases
from semievol.controller.plan import StepPlan, StepState, plan
from semievol.controller.runs import RunRecord
from semievol.launchers.fake_engines import FakeEngines
from semievol.ports import BASE_MODEL, ModelInfo

from tests.planning import RESOLVED, World, spec

ADDRESSES = {"embedding": "e:1", "generation": "serving:1", "judging": "j:1"}
FOUR = [
    {"model": "base", "references": 0},
    {"model": "base", "references": 2},
    {"model": "warm", "references": 0},
    {"model": "warm", "references": 2},
]
RIGHT = ModelInfo(BASE_MODEL, "m", RESOLVED.base_sha256, engine=RESOLVED.engine)


@dataclass
class Noted(ServingStays):
    """Serving engines that note what they are asked for."""

    asked: list[str] = field(default_factory=list)

    def yield_to(self, run: str) -> str:
        self.asked.append("yield")
        return "serving is away"

    def restore(self, run: str) -> None:
        self.asked.append("restore")


@dataclass
class Drive:
    """A driver without jobs: what is launched is published when it has been at work for one look. `addresses`: what a step was last given."""

    tmp: Any
    engines: FakeEngines
    run: RunSpec
    parallelism: int = 4
    world: World = field(default_factory=World)
    serving: Noted = field(default_factory=Noted)
    addresses: dict[str, dict[str, str]] = field(default_factory=dict)
    at_work: dict[tuple[str, int | None], StepPlan] = field(default_factory=dict)
    looks: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Another controller, which remembers nothing."""
        record = RunRecord("demo-1", self.run, RESOLVED, 0.0)
        known = KnownBases(LocalStore(self.tmp), self.engines.settings)
        self.turns = EngineTurns(record, self.engines, self.serving, known, ADDRESSES, parallelism=self.parallelism)
        self.at_work.clear()
        self.turns.begin()

    def look(self) -> bool:
        """One look of a driver; True when the run has ended."""
        for (key, shard), step in list(self.at_work.items()):
            assert step.work is not None
            self.world.publish(step.work, shard)
            del self.at_work[key, shard]
        steps = plan(self.run, RESOLVED, self.world.manifest_of)
        if all(step.state is StepState.DONE for step in steps):
            return True
        self.turns.look(steps, list(self.at_work.values()))
        for step in steps:
            if step.state is StepState.READY:
                self.launch(step)
        self.looks += 1
        assert self.looks < 500, f"the run stands still: {self.turns.waiting}"
        return False

    def launch(self, step: StepPlan) -> None:
        assert step.work is not None
        for shard in step.missing:
            if len(self.at_work) >= self.parallelism or (step.work.key, shard) in self.at_work:
                continue
            addresses = self.turns.addresses(step)
            if addresses is None:
                assert self.turns.waiting[step.label]
                return
            self.addresses[step.label] = dict(addresses)
            self.at_work[step.work.key, shard] = step

    def to_end(self) -> Drive:
        while not self.look():
            pass
        self.turns.end()
        return self


def starts(drive: Drive) -> list[str]:
    return [line.removeprefix("start ") for line in drive.engines.log if line.startswith("start")]


def test_a_shared_engine_starts_once_for_each_phase_between_trainings(tmp_path: Any) -> None:
    """base and warm answer in the first phase, evolved in the second: two starts for a run of one iteration, whatever its collaborators."""
    drive = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared")).to_end()
    assert drive.engines.log == ["start shared", "end shared", "start shared", "end shared"]
    assert drive.turns.used() == {"engine_starts": 2, "weight_swaps": 0}


def test_no_engine_is_there_while_a_run_trains(tmp_path: Any) -> None:
    engines = FakeEngines(slow_end=True)
    drive = Drive(tmp_path, engines, spec(collaborators=FOUR, placement="shared", iterations=2))
    while not drive.look():
        training = [step.label for step in drive.at_work.values() if step.work and step.work.kind == "train"]
        assert not (training and engines.there), f"{training} beside {engines.there}"


@pytest.mark.parametrize("parallelism", [1, 4])
def test_the_base_is_evaluated_by_the_engine_that_answers_and_starts_none_before_training(
    tmp_path: Any, parallelism: int
) -> None:
    """`evaluate-base` can be done as soon as the rows are read; an engine started for it would be ended for `warm` at once."""
    drive = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared"), parallelism=parallelism).to_end()
    order = list(drive.addresses)
    assert order.index("1/warm") < order.index("1/evaluate-base") < order.index("1/evolve")
    assert order.index("1/evaluate-warm") < order.index("1/evolve") < order.index("1/evaluate-evolved")


def test_several_iterations_start_an_engine_once_a_phase(tmp_path: Any) -> None:
    """The next iteration's collaborators answer in the phase in which this one's model is evaluated."""
    drive = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared", iterations=3)).to_end()
    assert starts(drive) == ["shared"] * 4


def test_dedicated_engines_on_one_gpu_take_turns_and_each_starts_once(tmp_path: Any) -> None:
    engines = FakeEngines(gpus=1)
    drive = Drive(tmp_path, engines, spec(collaborators=FOUR, placement="dedicated")).to_end()
    assert sorted(starts(drive)[:4]) == ["base-0", "base-2", "warm-0", "warm-2"]
    assert starts(drive)[4:] == ["evolved"]
    assert engines.most == 1


def test_dedicated_engines_on_four_gpus_answer_side_by_side(tmp_path: Any) -> None:
    engines = FakeEngines(gpus=4)
    drive = Drive(tmp_path, engines, spec(collaborators=FOUR, placement="auto"), parallelism=12)  # three shards each
    together = 0
    while not drive.look():
        asking = {step.name for step in drive.at_work.values() if step.name.startswith("infer/")}
        together = max(together, len(asking))
    assert engines.most == 4
    assert together == 4
    addresses = {label: one["generation"] for label, one in drive.addresses.items() if "/infer/" in label}
    assert addresses == {f"1/infer/{name}": f"{name}:50053" for name in ("base-0", "base-2", "warm-0", "warm-2")}


def test_a_run_of_one_job_at_a_time_starts_one_dedicated_engine_at_a_time(tmp_path: Any) -> None:
    engines = FakeEngines(gpus=4)
    drive = Drive(tmp_path, engines, spec(collaborators=FOUR, placement="dedicated"), parallelism=1).to_end()
    assert engines.most == 1
    assert len(starts(drive)) == 5


@pytest.mark.parametrize(("gpus", "slots"), [(None, {"shared"}), (3, {"shared"}), (4, {"base-0", "base-2", "warm-0", "warm-2"})])
def test_auto_gives_each_configuration_an_engine_where_the_gpus_are_known_to_suffice(
    tmp_path: Any, gpus: int | None, slots: set[str]
) -> None:
    drive = Drive(tmp_path, FakeEngines(gpus=gpus), spec(collaborators=FOUR)).to_end()
    assert set(starts(drive)) - {"evolved"} == slots


def test_the_judge_asks_an_engine_that_has_its_weights_and_judges_by_itself(tmp_path: Any) -> None:
    """The judging service asks an engine of its own choice, so jobs that have engines of the run's are not given its address."""
    drive = Drive(tmp_path, FakeEngines(gpus=4), spec(collaborators=FOUR, placement="dedicated")).to_end()
    assert drive.addresses["1/judge"]["generation"] in ("warm-0:50053", "warm-2:50053")
    assert "judging" not in drive.addresses["1/judge"]
    assert drive.addresses["1/retrieve"] == ADDRESSES


def test_a_restarted_controller_goes_on_with_the_engines_that_are_there(tmp_path: Any) -> None:
    drive = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared"))
    while not any(step.name.startswith("infer/") for step in drive.at_work.values()):
        drive.look()
    drive.restart()
    drive.to_end()
    assert starts(drive) == ["shared", "shared"]
    assert drive.turns.used() == {"engine_starts": 2, "weight_swaps": 0}


def test_a_restart_at_any_look_costs_no_start(tmp_path: Any) -> None:
    count = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared")).to_end().looks
    for at in range(count):
        drive = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared"))
        for _ in range(at):
            drive.look()
        drive.restart()
        assert len(starts(drive.to_end())) == 2, f"restarted after {at} looks"


def test_an_engine_that_dies_is_replaced(tmp_path: Any) -> None:
    drive = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared"))
    while "1/infer/base-0" not in drive.addresses:
        drive.look()
    drive.engines.die("shared")
    drive.to_end()
    assert starts(drive) == ["shared"] * 3


def test_a_step_says_what_it_waits_for(tmp_path: Any) -> None:
    engines = FakeEngines(gpus=0, looks=3)
    drive = Drive(tmp_path, engines, spec(collaborators=FOUR, placement="shared"))
    while not engines.there:
        drive.look()
    assert drive.turns.waiting["1/infer/base-0"] == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    engines.gpus = 1
    drive.look()
    assert drive.turns.waiting["1/infer/base-0"] == "The engine shared is being started."
    drive.to_end()
    assert drive.turns.waiting == {}


def test_whoever_starts_engines_may_be_away_for_a_while(tmp_path: Any) -> None:
    drive = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared"))
    while "1/warm" not in drive.addresses:
        drive.look()
    drive.engines.away = True
    for _ in range(5):
        drive.look()
    assert "told not to answer" in drive.turns.waiting["1/infer/base-0"]
    drive.engines.away = False
    assert starts(drive.to_end()) == ["shared", "shared"]


def test_an_engine_that_cannot_be_started_ends_the_run_with_its_last_words(tmp_path: Any) -> None:
    engines = FakeEngines(fails=["The model hub:none/such is not there."])
    drive = Drive(tmp_path, engines, spec(collaborators=FOUR, placement="shared"))
    with pytest.raises(errors.Unavailable, match="hub:none/such is not there"):
        drive.to_end()


def test_an_engine_that_serves_something_else_ends_the_run_and_is_remembered(tmp_path: Any) -> None:
    other = ModelInfo(BASE_MODEL, "m", RESOLVED.base_sha256, engine="vllm/bfloat16")
    drive = Drive(tmp_path, FakeEngines(base=other), spec(collaborators=FOUR, placement="shared"))
    with pytest.raises(errors.Conflict, match="other settings"):
        drive.to_end()
    assert KnownBases(LocalStore(tmp_path), "fake").find("m") == other


def test_serving_makes_room_while_the_run_has_engines_or_trains_and_comes_back(tmp_path: Any) -> None:
    drive = Drive(tmp_path, FakeEngines(base=RIGHT), spec(collaborators=FOUR, placement="shared"))
    drive.look()
    assert drive.serving.asked == []
    drive.look()
    assert drive.turns.note == "serving is away"
    drive.to_end()
    assert drive.serving.asked[-1] == "restore"
    assert drive.turns.note == ""


def test_the_end_is_told_once(tmp_path: Any) -> None:
    """A run that is started again right away must not lose its new engines to the old driver."""
    drive = Drive(tmp_path, FakeEngines(), spec(collaborators=FOUR, placement="shared")).to_end()
    drive.engines.acquire("demo-1", "shared")
    drive.turns.end()
    assert [one.slot for one in drive.engines.there] == ["shared"]


def test_fixed_engines_hold_nothing_back(tmp_path: Any) -> None:
    base = ModelInfo(BASE_MODEL, "m", "b" * 64, engine_starts=3, weight_swaps=1)
    fixed = FixedEngines("serving:1", lambda: base)
    record = RunRecord("demo-1", spec(collaborators=FOUR), RESOLVED, 0.0)
    turns = EngineTurns(record, fixed, ServingStays(), KnownBases(LocalStore(tmp_path), ""), ADDRESSES)
    turns.begin()
    world = World()
    steps = plan(record.spec, RESOLVED, world.manifest_of)
    assert steps[0].work is not None
    world.publish(steps[0].work, None)
    steps = plan(record.spec, RESOLVED, world.manifest_of)
    turns.look(steps, [])
    ready = [step for step in steps if step.state is StepState.READY]
    assert "1/evaluate-base" in [step.label for step in ready]
    assert [turns.addresses(step) for step in ready] == [ADDRESSES] * len(ready)
    assert turns.used() == {"engine_starts": 1, "weight_swaps": 0}
