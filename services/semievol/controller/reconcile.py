"""One run, driven to its end: plan, launch what is ready, look at what runs, plan again. Level-triggered: nothing in memory matters.

What counts is in the store. A controller that is killed at any moment and started again plans from the same manifests and goes on.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from semievol.common import errors, work
from semievol.common.artifacts import Artifacts, Look, Manifest, Shard
from semievol.common.registry import Registry
from semievol.controller.models import best_model, models_of, register_models, work_seconds
from semievol.controller.plan import Addition, Done, StepPlan, StepState
from semievol.controller.runs import TERMINAL, Event, RunRecord, RunStore, step_label
from semievol.controller.training import TrainingJob
from semievol.ports import JobSpec, JobState, Launcher, ModelInfo, Trainer

log = logging.getLogger(__name__)

_ENTRYPOINT = "semievol.steps.main:run"
# Trying again cannot help: the input is bad, the code has a bug, somebody forbids it, a name is taken.
_FINAL_CODES = {
    errors.InvalidInput.exit_code,
    errors.InternalError.exit_code,
    errors.NotAllowed.exit_code,
    errors.Conflict.exit_code,
}
_PATIENCE, _MOST_PATIENCE = 1.2, 8  # from one look at the jobs to the next, while nothing begins or ends
ShardId = tuple[str, int | None]  # (step label, shard) where attempts are counted, (content key, shard) where work is


@dataclass(frozen=True)
class Surroundings:
    """What a run needs of the world."""

    artifacts: Artifacts
    store_uri: str
    runs: RunStore
    registry: Registry
    launcher: Launcher
    trainer: Callable[[], Trainer]  # connected when first needed
    addresses: Mapping[str, str]
    parallelism: int
    max_attempts: int
    backoff_s: float
    poll_s: float
    base: Callable[[], ModelInfo]  # the generation service's, for the engines that it has started


@dataclass
class Progress:
    """How far a step is, for whoever watches; never recorded, never decisive (R10)."""

    done: int = 0
    total: int = 0
    unit: str = "rows"
    loss: float = 0.0
    tokens_per_s: float = 0.0


@dataclass
class ActiveJob:
    """A job at work."""

    name: str
    step: StepPlan
    shard: int | None
    attempt: int
    training: TrainingJob | None = None
    log_lines: int = 0
    progress: Progress = field(default_factory=Progress)


class RunDriver:
    """Drives one run on a thread of its own. `version` changes with every event and progress."""

    def __init__(self, run: RunRecord, surroundings: Surroundings) -> None:
        self.run = run
        self.progress: dict[str, Progress] = {}  # by step label
        self._changed = threading.Condition()
        self._ended = False
        self.version = 0
        self.unrecorded: errors.SemiEvolError | None = None  # what ended the run, where not even that could be written
        self._world = surroundings
        self._active: dict[ShardId, ActiveJob] = {}
        self._rows: dict[str, list[int]] = {}  # by key of a sharded step
        self._manifests: dict[Shard, Manifest] = {}
        self._done = Done()
        self._look = self._new_look()  # one for each look at everything
        self._attempts: Counter[ShardId] = Counter()  # by earlier controllers too
        self._first_attempts: Counter[ShardId] = Counter()  # by earlier controllers only
        self._retry_at: dict[ShardId, float] = {}
        self._saved: set[str] = set()  # keys whose work is in the store
        self._announced: set[str] = set()
        self._registered: set[str] = set()  # models that the run's record names, by earlier controllers too
        self._started_here: set[str] = set()
        self._stop = threading.Event()
        self._cancelled = False
        self._engines_before = (0, 0)
        self._thread = threading.Thread(target=self._drive, name=f"run-{run.id}", daemon=True)

    # -------------------------------------------------------------- from outside

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
            wait_s, at_work = self._world.poll_s, set(self._active)
            while not self._stop.is_set() and not self._advance():
                # A job that has run for long will run on: looking at it costs the cores that it computes on.
                quiet = self._active.keys() == at_work
                wait_s = min(wait_s * _PATIENCE, self._world.poll_s * _MOST_PATIENCE) if quiet else self._world.poll_s
                at_work = set(self._active)
                self._stop.wait(wait_s)
            self._end_jobs()
            if self._cancelled:
                self._record({"type": "run_cancelled"})
        except errors.SemiEvolError as error:
            self._fail(error.message, type(error).__name__)
        except Exception:
            log.exception("Run %s", self.run.id)
            self._fail("Internal error of the controller; its log has the details.", errors.InternalError.__name__)
        finally:
            self._notify()

    def _resume(self) -> None:
        """What earlier controllers did: their attempts count, so that job names are never used twice."""
        events = self._world.runs.events(self.run.id)
        for event in events:
            if event["type"] == "step_started":
                self._attempts[step_label(event), event["shard"] if event["shard"] >= 0 else None] += 1
        self._first_attempts = Counter(self._attempts)
        self._engines_before = self._engines()
        self._registered = {event["model"] for event in events if event["type"] == "model_registered"}
        self._record({"type": "run_started", "resumed": any(event["type"] == "run_started" for event in events)})

    def _advance(self) -> bool:
        """One look at everything. True if the run has ended."""
        self._look_at_jobs()
        self._look = self._new_look()
        steps = self.run.plan(self._look, self._done)
        for step in steps:
            if step.state is StepState.DONE and step.label not in self._announced:
                self._announce(step)
        if all(step.state is StepState.DONE for step in steps):
            if best := best_model(models_of(self._world.artifacts, self.run, steps), steps):
                self._world.registry.promote(best.name, self.run.spec.name)
            self._record({"type": "run_succeeded", **self._engines_used()})
            return True
        for step in steps:
            if step.state is StepState.READY:
                self._launch_missing(step)
        return False

    def _new_look(self) -> Look:
        return Look(self._world.artifacts, verify=True, known=self._manifests)

    def _announce(self, step: StepPlan) -> None:
        self._announced.add(step.label)
        self.progress.pop(step.label, None)
        assert step.work is not None
        base = {"iteration": step.iteration, "step": step.name, "key": step.work.key}
        if step.label in self._started_here:
            self._record({"type": "step_succeeded", **base, "seconds": work_seconds(self._world.artifacts, step)})
        else:
            self._record({"type": "step_reused", **base})
        if step.work.kind == "report":
            steps = self.run.plan(self._look, self._done)
            for model in register_models(self._world.artifacts, self._world.registry, self.run, steps, step.iteration):
                if model.name not in self._registered:  # whether or not the registry knew it: its record comes first
                    self._record({"type": "model_registered", "model": model.name})
                    self._registered.add(model.name)

    # -------------------------------------------------------------- jobs

    def _launch_missing(self, step: StepPlan) -> None:
        assert step.work is not None
        for shard in step.missing:
            # by key: the next iteration's warm model is this one's evolved model, one piece of work under two names
            work_id = (step.work.key, shard)
            if work_id in self._active or time.monotonic() < self._retry_at.get(work_id, 0.0):
                continue
            if len(self._active) >= self._world.parallelism:
                return
            self._launch(step, shard)

    def _launch(self, step: StepPlan, shard: int | None) -> None:
        assert step.work is not None
        self._attempts[step.label, shard] += 1
        attempt = self._attempts[step.label, shard]
        place = "" if shard is None else f"-{shard}"
        name = f"{self.run.id}-{step.iteration}-{step.name.replace('/', '-')}{place}-{attempt}"
        job = ActiveJob(name, step, shard, attempt)
        if step.work.key not in self._saved:  # once for all its shards
            work.save(self._world.artifacts.store, step.work)
            self._saved.add(step.work.key)
        self._started_here.add(step.label)
        self._record(
            {
                "type": "step_started",
                "iteration": step.iteration,
                "step": step.name,
                "shard": -1 if shard is None else shard,
                "attempt": attempt,
                "job": name,
            }
        )
        self._active[step.work.key, shard] = job
        if step.work.kind == "train":
            job.training = TrainingJob(self._world.trainer(), step.work)
            return
        place_argument = "-" if shard is None else str(shard)
        addresses = json.dumps(dict(self._world.addresses), sort_keys=True)
        args = (self._world.store_uri, step.work.key, place_argument, name, addresses)
        self._world.launcher.submit(JobSpec(name, _ENTRYPOINT, args, {"run": self.run.id, "key": step.work.key}))

    def _look_at_jobs(self) -> None:
        for work_id, job in list(self._active.items()):
            self._look_at_progress(job)
            status = job.training.status() if job.training else self._world.launcher.state(job.name)
            if status.state is JobState.RUNNING:
                continue
            del self._active[work_id]
            assert job.step.work is not None
            if status.state is JobState.SUCCEEDED and self._new_look()(job.step.work.key, job.shard) is not None:
                continue
            self._job_failed(job, status.exit_code, status.message)

    def _job_failed(self, job: ActiveJob, exit_code: int | None, message: str) -> None:
        code = exit_code or errors.Corrupt.exit_code  # it ended well, but what it published is damaged or gone
        attempts = (job.step.label, job.shard)
        tried = self._attempts[attempts] - self._first_attempts[attempts]
        retry = code not in _FINAL_CODES and tried < self._world.max_attempts
        self._done.clear()
        self._manifests.clear()  # what looked intact may be what the job stumbled over
        self._saved.clear()
        self._world.artifacts.distrust()
        self._record(
            {
                "type": "step_failed",
                "iteration": job.step.iteration,
                "step": job.step.name,
                "shard": -1 if job.shard is None else job.shard,
                "attempt": job.attempt,
                "exit_code": code,
                "error": message or "The job ended without a word.",
                "will_retry": retry,
            }
        )
        if not retry:
            raise _error_of(code)(f"Step {job.step.label} failed: {message or 'the job ended without a word.'}")
        assert job.step.work is not None
        self._retry_at[job.step.work.key, job.shard] = time.monotonic() + self._world.backoff_s * 2 ** (tried - 1)

    def _look_at_progress(self, job: ActiveJob) -> None:
        lines = job.training.progress() if job.training else self._new_progress(job)
        if lines is None:
            return
        job.progress = Progress(**lines)
        total = Progress(**lines)
        if job.step.work and job.step.work.parts:
            rows = self._shard_rows(job.step.work)
            finished = [shard for (key, shard) in self._manifests if key == job.step.work.key and shard is not None]
            at_work = [one for one in self._active.values() if one.step.label == job.step.label]
            total.done = sum(rows[shard] for shard in finished) + sum(one.progress.done for one in at_work)
            total.total = sum(rows)
        self.progress[job.step.label] = total
        self._notify()

    def _shard_rows(self, todo: work.Work) -> list[int]:
        """Rows of each shard. All but the last are full."""
        if todo.key not in self._rows:
            last = max(todo.inputs["rows"], key=lambda file: -1 if file.part is None else file.part)
            full = [self.run.spec.shard_rows] * (len(todo.shards) - 1)
            self._rows[todo.key] = [*full, len(self._world.artifacts.read_json_lines(last.file))]
        return self._rows[todo.key]

    def _new_progress(self, job: ActiveJob) -> dict[str, Any] | None:
        latest = None
        lines = self._world.launcher.logs(job.name, job.log_lines)
        job.log_lines += len(lines)
        for line in lines:
            if line.startswith('{"progress"'):
                latest = json.loads(line)["progress"]
        return latest

    def _end_jobs(self) -> None:
        """What an endpoint trains goes on, unless somebody wants the run cancelled: it costs money, and the run finds it again."""
        for job in self._active.values():
            if job.training and job.training.elsewhere and not self._cancelled:
                continue
            if job.training:
                job.training.cancel()
            else:
                self._world.launcher.cancel(job.name)
        self._active.clear()

    # -------------------------------------------------------------- engines

    def _engines(self) -> tuple[int, int]:
        """(starts, swaps) of the generation service so far; nothing where it does not answer: it is not worth a run."""
        try:
            base = self._world.base()
        except errors.SemiEvolError as error:
            log.warning("Run %s: the generation service does not tell its engines: %s", self.run.id, error)
            return 0, 0
        return base.engine_starts, base.weight_swaps

    def _engines_used(self) -> dict[str, int]:
        """Engines that were there when this session of the run began, and those started since."""
        (before, swaps_before), (starts, swaps) = self._engines_before, self._engines()
        return {"engine_starts": starts - before + min(1, before), "weight_swaps": swaps - swaps_before}

    # -------------------------------------------------------------- record

    def _fail(self, message: str, error_class: str) -> None:
        try:
            self._end_jobs()
        except errors.SemiEvolError as error:
            log.warning("Run %s: jobs could not be ended: %s", self.run.id, error)
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


def _error_of(exit_code: int) -> type[errors.SemiEvolError]:
    """The class that a job's exit code stands for."""
    classes: dict[int, type[errors.SemiEvolError]] = {
        cls.exit_code: cls
        for cls in (errors.InternalError, errors.Corrupt, errors.Conflict, errors.Busy, errors.Unavailable, errors.NotAllowed)
    }
    return classes.get(exit_code, errors.InvalidInput if exit_code == errors.InvalidInput.exit_code else errors.InternalError)
