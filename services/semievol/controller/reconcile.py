"""One run, driven to its end: plan, launch what is ready, look at what runs, plan again. Level-triggered: nothing in memory matters.

What counts is in the store. A controller that is killed at any moment and started again plans from the same manifests and goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

from semievol.common import errors
from semievol.common.artifacts import Look, Manifest
from semievol.common.artifacts import Shard as Published
from semievol.controller.jobs import Jobs, Progress, Shard
from semievol.controller.models import best_model, models_of, register_models, work_seconds
from semievol.controller.plan import Addition, Done, StepPlan, StepState
from semievol.controller.runs import TERMINAL, Event, RunRecord
from semievol.controller.surroundings import Surroundings

log = logging.getLogger(__name__)

_PATIENCE, _MOST_PATIENCE = 1.2, 8  # from one look at the jobs to the next, while nothing begins or ends


class RunDriver:
    """Drives one run on a thread of its own. `version` changes with every event and progress."""

    def __init__(self, run: RunRecord, surroundings: Surroundings) -> None:
        self.run = run
        self._changed = threading.Condition()
        self._ended = False
        self.version = 0
        self.unrecorded: errors.SemiEvolError | None = None  # what ended the run, where not even that could be written
        self._world = surroundings
        self._manifests: dict[Published, Manifest] = {}
        self._done = Done()
        self._look = self._new_look()  # one for each look at everything
        self._engines = surroundings.turns(run)
        self._jobs = Jobs(run, surroundings, self._record, self._published, self._distrust, self._engines.addresses)
        self._announced: set[str] = set()
        self._registered: set[str] = set()  # models that the run's record names, by earlier controllers too
        self._stop = threading.Event()
        self._cancelled = False
        self._thread = threading.Thread(target=self._drive, name=f"run-{run.id}", daemon=True)

    # -------------------------------------------------------------- from outside

    @property
    def progress(self) -> dict[str, Progress]:
        """By step label."""
        return self._jobs.progress

    @property
    def begun(self) -> set[str]:
        """Labels of the steps that were launched, or taken over, since the run was last started."""
        return self._jobs.launched

    @property
    def waiting(self) -> dict[str, str]:
        """Step label -> what holds its jobs up."""
        return {**self._engines.waiting, **self._jobs.waiting}

    @property
    def note(self) -> str:
        """What whoever looks at the run should know; empty for nothing."""
        return self._engines.note

    def start(self) -> None:
        """Records that the run goes on, then drives it. What it reuses is verified anew."""
        self._world.artifacts.distrust()
        self._resume()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still drives: False as soon as a terminal event is recorded."""
        return self._thread.is_alive() and not self._ended

    def take_up(self, additions: tuple[Addition, ...]) -> None:
        """The run's rows became more: its next plan knows it."""
        self.run = replace(self.run, additions=additions)

    def wait_for_change(self, version: int, timeout_s: float) -> None:
        """Returns when something has happened since `version`, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self.version != version, timeout=timeout_s)

    def cancel(self) -> None:
        """Stops the run's jobs and records that somebody asked for it; returns when nothing runs any more."""
        self._cancelled = True
        self.stop()

    def stop(self) -> None:
        """Stops the run's jobs without a word in the record: the run goes on when it is started again."""
        self._stop.set()
        self._thread.join()

    # -------------------------------------------------------------- the loop

    def _drive(self) -> None:
        try:
            wait_s, at_work = self._world.poll_s, self._jobs.names
            while not self._stop.is_set() and not self._world.leader() and not self._advance():
                # A job that has run for long will run on: looking at it costs the cores that it computes on.
                quiet = self._jobs.names == at_work
                wait_s = min(wait_s * _PATIENCE, self._world.poll_s * _MOST_PATIENCE) if quiet else self._world.poll_s
                at_work = self._jobs.names
                self._stop.wait(wait_s)
            if self._cancelled:
                self._jobs.end(everywhere=True)
                self._engines.end()
                self._record({"type": "run_cancelled"})
            else:
                self._jobs.leave()
        except errors.SemiEvolError as error:
            self._fail(error.message, type(error).__name__)
        except Exception:
            log.exception("Run %s", self.run.id)
            self._fail("Internal error of the controller; its log has the details.", errors.InternalError.__name__)
        finally:
            self._notify()

    def _resume(self) -> None:
        """What earlier controllers did."""
        events = self._world.runs.events(self.run.id)
        self._jobs.recall(events)
        self._engines.begin()
        self._registered = {event["model"] for event in events if event["type"] == "model_registered"}
        self._record({"type": "run_started", "resumed": any(event["type"] == "run_started" for event in events)})

    def _advance(self) -> bool:
        """One look at everything. True if the run has ended."""
        if self._jobs.look():
            self._notify()
        self._look = self._new_look()
        steps = self.run.plan(self._look, self._done)
        for step in steps:
            if step.state is StepState.DONE and step.label not in self._announced:
                self._announce(step)
        if all(step.state is StepState.DONE for step in steps):
            if best := best_model(models_of(self._world.artifacts, self.run, steps), steps):
                self._world.registry.promote(best.name, self.run.spec.name)
            used = self._engines.used()
            self._engines.end()  # before its end is on record: the run may be started again at once
            self._record({"type": "run_succeeded", **used})
            return True
        before = dict(self._engines.waiting)
        self._engines.look(steps, self._jobs.steps)
        self._jobs.launch(steps)
        if self._engines.waiting != before:
            self._notify()
        return False

    def _new_look(self) -> Look:
        return Look(self._world.artifacts, verify=True, known=self._manifests)

    def _published(self, key: str, shards: Sequence[Shard]) -> set[Shard]:
        look = self._new_look()
        return {shard for shard in shards if look(key, shard) is not None}

    def _distrust(self) -> None:
        """What looked intact may be what a job stumbled over."""
        self._done.clear()
        self._manifests.clear()
        self._world.artifacts.distrust()

    def _announce(self, step: StepPlan) -> None:
        self._announced.add(step.label)
        self._jobs.progress.pop(step.label, None)
        assert step.work is not None
        base = {"iteration": step.iteration, "step": step.name, "key": step.work.key}
        if step.label in self._jobs.launched:
            self._record({"type": "step_succeeded", **base, "seconds": work_seconds(self._world.artifacts, step)})
        else:
            self._record({"type": "step_reused", **base})
        if step.work.kind == "report":
            steps = self.run.plan(self._look, self._done)
            for model in register_models(self._world.artifacts, self._world.registry, self.run, steps, step.iteration):
                if model.name not in self._registered:  # whether or not the registry knew it: its record comes first
                    self._record({"type": "model_registered", "model": model.name})
                    self._registered.add(model.name)

    # -------------------------------------------------------------- record

    def _fail(self, message: str, error_class: str) -> None:
        try:
            self._jobs.end(everywhere=False)
        except errors.SemiEvolError as error:
            log.warning("Run %s: jobs could not be ended: %s", self.run.id, error)
        self._engines.end()
        try:
            self._record({"type": "run_failed", "error": message, "error_class": error_class})
        except errors.SemiEvolError as error:  # a full disk ends a run, and then takes no word about it
            log.warning("The end of run %s could not be recorded: %s", self.run.id, error.message)
            self.unrecorded = error

    def _record(self, event: Event) -> None:
        self._world.runs.append(self.run.id, event)
        self._ended = event["type"] in TERMINAL
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self.version += 1
            self._changed.notify_all()
