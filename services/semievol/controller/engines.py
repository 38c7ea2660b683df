"""Which engine answers a run's step, and when: engines and training take turns where both want the same accelerators.

A run goes through phases. While it trains, it has no engine; in between, its engines answer everything that can be asked of them before
the next training: a start is the dearest fixed cost, so each happens once a phase. The evaluations of the base and of the warm model are
asked of the engines that are there for `infer`, and an engine is not started for an evaluation if training comes next anyway.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from semievol.common import errors
from semievol.controller.known import KnownBases
from semievol.controller.plan import StepPlan, StepState
from semievol.controller.runs import RunRecord
from semievol.ports import Engines, EngineState, ModelInfo, ServingEngines

log = logging.getLogger(__name__)

_ASKING = ("infer", "judge", "score", "evaluate")  # kinds of steps that ask a model
_SHARED = "shared"
_END_S, _END_POLL_S = 120.0, 0.2  # for engines that are told to end: twice the grace that the chart gives them


class FixedEngines:
    """One address for all runs: what answers there was started by somebody else, and stays."""

    takes_turns = False
    settings = ""

    def __init__(self, address: str, base: Callable[[], ModelInfo]) -> None:
        self._address = address
        self._base = base

    def capacity(self) -> int | None:
        return None

    def acquire(self, run: str, slot: str) -> EngineState:
        return EngineState(self._address)

    def held(self, run: str) -> list[str]:
        return []

    def release(self, run: str, slot: str = "") -> bool:
        return True

    def used(self, run: str) -> tuple[int, int]:
        """Nothing where the generation service does not answer: it is not worth a run."""
        try:
            base = self._base()
        except errors.SemiEvolError as error:
            log.warning("Run %s: the generation service does not tell its engines: %s", run, error)
            return 0, 0
        return base.engine_starts, base.weight_swaps


class ServingStays:
    """Serving engines that no run can have a wish about."""

    def yield_to(self, run: str) -> str:
        return ""

    def restore(self, run: str) -> None:
        """Nothing was taken."""

    def recover(self, runs: object) -> None:
        """Nothing was taken."""


class Turn(StrEnum):
    ANY = "any"  # nothing stands in the way of anything
    ASKING = "asking"
    TRAINING = "training"


class EngineTurns:
    """The engines of one run, as its driver has them. `waiting`: step label -> why its jobs are not launched yet; `note`: what whoever looks
    at the run should know. `placement`: for runs that leave it to us."""

    def __init__(
        self,
        run: RunRecord,
        engines: Engines,
        serving: ServingEngines,
        known: KnownBases,
        addresses: Mapping[str, str],
        *,
        parallelism: int = 1,
        placement: str = "auto",
    ) -> None:
        self.waiting: dict[str, str] = {}
        self.note = ""
        self._run, self._engines, self._serving, self._known = run, engines, serving, known
        self._addresses, self._parallelism, self._placement = addresses, parallelism, placement
        self._turn = Turn.ANY
        self._held: set[str] = set()
        self._crowded = False  # an engine finds no room
        self._slots: dict[str, str] = {}  # step label -> slot
        self._dedicated: bool | None = None
        self._checked: set[str] = set()  # addresses that serve what the run was submitted for
        self._before = (0, 0)
        self._ended = False

    # -------------------------------------------------------------- from the driver

    def begin(self) -> None:
        """The run goes on: what its engines did before does not count."""
        run = self._run.id
        try:
            there = len(self._engines.held(run)) if self._engines.takes_turns else 1
            starts, swaps = self._engines.used(run)
        except _PASSING as error:
            log.warning("Run %s: its engines are not counted: %s", run, error.message)
            return
        self._before = (starts - min(there, starts), swaps)  # what was there counts as one start each

    def look(self, steps: Sequence[StepPlan], active: Sequence[StepPlan]) -> None:
        """Once for each plan, before its steps are launched. `active`: the steps whose jobs are at work."""
        ready = [step for step in steps if step.state is StepState.READY]
        labels = {step.label for step in ready}
        self.waiting = {label: reason for label, reason in self.waiting.items() if label in labels}
        if not self._engines.takes_turns:
            return
        if self._crowded or not any(_asks(step) or _trains_here(step) for step in active):  # else nothing hangs on it
            try:
                self._held = set(self._engines.held(self._run.id))
            except _PASSING as error:
                log.warning("Run %s: %s", self._run.id, error.message)
        self._slots = self._slots_of(steps)
        self._turn = self._whose(steps, ready, active)
        if self._turn is not Turn.ANY:
            self.note = self._serving.yield_to(self._run.id)
        if self._turn is Turn.ASKING:
            self._make_room(ready, active)
        self._crowded = False

    def addresses(self, step: StepPlan) -> Mapping[str, str] | None:
        """Service -> address for the step's jobs; None while they have to wait, and `waiting` says for what.

        Raises Unavailable (its engine cannot be started), Conflict (the engine serves something else)."""
        assert step.work is not None
        found: Mapping[str, str] | str = self._addresses
        if step.work.kind in _ASKING:
            found = self._ask(step)
        elif _trains_here(step):
            found = self._train()
        if isinstance(found, str):
            self.waiting[step.label] = found
            return None
        self.waiting.pop(step.label, None)
        return found

    def used(self) -> dict[str, int]:
        """Engines that were there when this session of the run began, and those started since."""
        try:
            starts, swaps = self._engines.used(self._run.id)
        except _PASSING as error:
            log.warning("Run %s: its engines are not counted: %s", self._run.id, error.message)
            starts, swaps = self._before
        before, swaps_before = self._before
        return {"engine_starts": starts - before, "weight_swaps": swaps - swaps_before}

    def end(self) -> None:
        """The run has ended: so do its engines, once. What cannot be ended now is found when the next controller starts."""
        if self._ended or not self._engines.takes_turns:
            return
        self._ended = True
        give_up = time.monotonic() + _END_S
        try:
            while not self._engines.release(self._run.id) and time.monotonic() < give_up:
                time.sleep(_END_POLL_S)
        except errors.SemiEvolError as error:
            log.warning("Run %s: its engines could not be ended: %s", self._run.id, error.message)
        self._serving.restore(self._run.id)
        self.note = ""

    # -------------------------------------------------------------- turns

    def _whose(self, steps: Sequence[StepPlan], ready: Sequence[StepPlan], active: Sequence[StepPlan]) -> Turn:
        if any(_trains_here(step) for step in active):
            return Turn.TRAINING
        if any(_asks(step) for step in active):
            return Turn.ASKING
        asking, training = any(map(_asks, ready)), any(map(_trains_here, ready))
        if self._held:  # a phase is on, perhaps since an earlier controller: it is used to the end
            return Turn.ASKING if asking else Turn.TRAINING if training else Turn.ANY
        if training and not asking:
            return Turn.TRAINING
        if not asking:
            return Turn.ANY
        return Turn.TRAINING if _training_comes_first(steps, ready, active) else Turn.ASKING

    def _train(self) -> Mapping[str, str] | str:
        if not self._engines.takes_turns:
            return self._addresses
        if self._turn is not Turn.TRAINING:
            return "Waits until the run's engines have answered: training needs what they compute on."
        try:
            gone = self._engines.release(self._run.id)
        except _PASSING as error:
            return error.message
        self._held.clear()
        if not gone:
            return "Waits until the run's engines have ended: training needs what they compute on."
        return self._addresses

    def _ask(self, step: StepPlan) -> Mapping[str, str] | str:
        if self._turn is Turn.TRAINING:
            return "Waits until the run has trained: training needs what its engines compute on."
        slot = self._slots.get(step.label, _SHARED)
        if self._engines.takes_turns and slot not in self._held and len(self._held) >= self._parallelism:
            self._crowded = True
            return f"Waits for its turn: {', '.join(sorted(self._held))} answer, and a run may have {self._parallelism} jobs at once."
        try:
            state = self._engines.acquire(self._run.id, slot)
        except _PASSING as error:
            return error.message
        self._held.add(slot)
        if state.failed:
            raise errors.Unavailable(f"The engine {slot} of the run cannot be started: {state.reason}")
        if state.reason:
            self._crowded |= state.crowded
            return state.reason
        if state.base and state.address not in self._checked:
            self._check(state.base)
            self._checked.add(state.address)
        # the judging service asks an engine of its own choice: with engines of the run's the step judges by itself
        others = {name: one for name, one in self._addresses.items() if name != "judging" or not self._engines.takes_turns}
        return {**others, "generation": state.address} if state.address else others

    def _make_room(self, ready: Sequence[StepPlan], active: Sequence[StepPlan]) -> None:
        """Where one engine finds no room, those that nobody asks any more go."""
        if not self._crowded:
            return
        wanted = {self._slots.get(step.label) for step in (*ready, *active)}
        for slot in sorted(self._held - wanted):
            log.info("Run %s: its engine %s makes room", self._run.id, slot)
            try:
                self._engines.release(self._run.id, slot)
            except _PASSING as error:
                log.warning("Run %s: %s", self._run.id, error.message)
                return
            self._held.discard(slot)

    def _check(self, base: ModelInfo) -> None:
        """An engine that is not the one that was resolved would publish its answers under the other's keys."""
        self._known.learn(base)
        resolved = self._run.resolved
        if (base.base_sha256, base.engine) != (resolved.base_sha256, resolved.engine):
            raise errors.Conflict(
                f"The run was submitted for {self._run.spec.model} ({resolved.base_sha256[:12]}) on {resolved.engine}, and its engine serves "
                f"{base.base} ({base.base_sha256[:12]}) on {base.engine}: serving engines and engines of runs have other settings. Submit it again.",
                field="engine",
            )

    # -------------------------------------------------------------- slots

    def _slots_of(self, steps: Sequence[StepPlan]) -> dict[str, str]:
        """Step -> the engine that answers it. Dedicated: one for each configuration of collaborators (weights and references); the other
        steps are asked of one that has their weights, if there is one."""
        configurations = list(dict.fromkeys(step.name.removeprefix("infer/") for step in steps if step.name.startswith("infer/")))
        asking = [step for step in steps if step.work is not None and _asks(step)]
        if not self._is_dedicated(len(configurations)):
            return {step.label: _SHARED for step in asking}
        return {step.label: self._slot(step, configurations) for step in asking}

    def _slot(self, step: StepPlan, configurations: Sequence[str]) -> str:
        if step.name.startswith("infer/"):
            return step.name.removeprefix("infer/")
        assert step.work is not None
        role = "base" if "model" not in step.work.inputs else "evolved" if step.name.endswith("-evolved") else "warm"
        fitting = [name for name in configurations if name.partition("-")[0] == role]
        return next((name for name in fitting if name in self._held), fitting[0] if fitting else role)

    def _is_dedicated(self, count: int) -> bool:
        if self._dedicated is None and count:
            asked = self._run.spec.placement
            placement = self._placement if asked == "auto" else asked
            if placement == "auto":
                room = self._engines.capacity()
                placement = "dedicated" if room is not None and room >= count else _SHARED
            self._dedicated = placement == "dedicated"
        return bool(self._dedicated)


_PASSING = (errors.Unavailable, errors.Busy, errors.DeadlineExceeded)  # of whoever starts engines: it is asked again


def _asks(step: StepPlan) -> bool:
    return step.work is not None and step.work.kind in _ASKING


def _trains_here(step: StepPlan) -> bool:
    """What an endpoint trains wants nothing of ours."""
    return step.work is not None and step.work.kind == "train" and not step.work.params.get("endpoint")


def _training_comes_first(steps: Sequence[StepPlan], ready: Sequence[StepPlan], active: Sequence[StepPlan]) -> bool:
    """Whether the run can train next without having asked a model: of what leads to a trained model, training is the first that is missing.

    The order of a plan is one in which everything comes after what it needs. Evaluations lead to none, so they wait for the next engines; but
    never for training that nothing leads to at present."""
    leading = (step for step in steps if step.state is not StepState.DONE and _leads(step))
    first = next(leading, None)
    if first is None or first.name.startswith(_BEFORE_SELECTION):
        return False
    return _trains_here(first) or any(not _asks(step) for step in (*ready, *active))


_BEFORE_SELECTION = ("infer/", "judge", "score")
_TRAINS = ("warm", "evolve")


def _leads(step: StepPlan) -> bool:
    """By name, since a step that waits has no work yet."""
    return step.name in _TRAINS or step.name.startswith(_BEFORE_SELECTION)
