"""The jobs of one run: launched, found again, looked at, ended. What counts is what they publish, whatever becomes of the jobs (R1, R11).

A job does one shard of a step, or, with a launcher that takes groups, many. Its name is that of its attempt and never used again. A controller
that starts anew finds the names in the run's record; a job that still runs is adopted, and of one that is gone only its manifests are asked.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from semievol.common import errors, work
from semievol.controller.plan import StepPlan, StepState
from semievol.controller.runs import Event, RunRecord, step_label
from semievol.controller.surroundings import Surroundings
from semievol.controller.training import TrainingJob
from semievol.launchers.entrypoint import SHARD
from semievol.ports import JobSpec, JobState, JobStatus, Launcher

log = logging.getLogger(__name__)

_ENTRYPOINT = "semievol.steps.main:run"
_WORDLESS = "The job ended without a word."
_GONE = "The job is gone, and has published nothing: somebody deleted it, or its node."
_PROGRESS = re.compile(r'(?:shard (\d+): )?(\{"progress".*)')
_ENDING_AT_ONCE = 8  # jobs that are told to end at a time: each may take its grace

Shard = int | None
ShardId = tuple[str, Shard]  # (step label, shard) where attempts are counted, (content key, shard) where work is


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
    """A job at work. `heard`: when its state was last told."""

    spec: JobSpec
    step: StepPlan
    shards: tuple[Shard, ...]
    attempt: int
    submitted: bool = False
    training: TrainingJob | None = None
    reason: str = ""
    log_lines: int = 0
    progress: dict[Shard, Progress] = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        return self.spec.labels["key"]

    @property
    def place(self) -> Shard:
        """The shard of a job that does one; -1 on record: it is not sharded, or does several."""
        return None if self.spec.shards else self.shards[0]


class Jobs:
    """`record` writes an event; `published` says which of a key's shards have a manifest that is intact; `stumbled` is called after a failure:
    what was taken for intact may be what a job stumbled over. `addresses`: service -> address for a step's jobs, None while it has to wait.
    `progress` and `waiting` are by step label."""

    def __init__(
        self,
        run: RunRecord,
        world: Surroundings,
        record: Callable[[Event], None],
        published: Callable[[str, Sequence[Shard]], set[Shard]],
        stumbled: Callable[[], None],
        addresses: Callable[[StepPlan], Mapping[str, str] | None],
    ) -> None:
        self.progress: dict[str, Progress] = {}
        self.launched: set[str] = set()  # labels of steps that were done here
        self._run, self._world = run, world
        self._record, self._published, self._stumbled, self._addresses = record, published, stumbled, addresses
        self._active: dict[str, ActiveJob] = {}  # by name
        self._left: dict[str, list[Event]] = {}  # by step label: what earlier controllers launched and nobody saw end
        self._attempts: Counter[ShardId] = Counter()  # by earlier controllers too, so that no name comes twice
        self._tried: Counter[ShardId] = Counter()  # by this one
        self._retry_at: dict[ShardId, float] = {}
        self._saved: set[str] = set()  # keys whose work is in the store
        self._missing: dict[str, tuple[Shard, ...]] = {}  # by step label
        self._rows: dict[str, list[int]] = {}  # by key of a sharded step

    @property
    def names(self) -> set[str]:
        return set(self._active)

    @property
    def steps(self) -> list[StepPlan]:
        """Of which jobs are at work."""
        return [job.step for job in self._active.values()]

    @property
    def waiting(self) -> dict[str, str]:
        """Why jobs are not at work, in the words of whoever holds them up."""
        return {job.step.label: job.reason for job in list(self._active.values()) if job.reason}

    def recall(self, events: Sequence[Event]) -> None:
        """What earlier controllers did."""
        for event in events:
            if event["type"] == "step_started":
                self._attempts[step_label(event), _place(event)] += 1
        if self._world.launcher.lasting:
            for event in _unended(events):
                self._left.setdefault(step_label(event), []).append(event)

    # -------------------------------------------------------------- launching

    def launch(self, steps: Sequence[StepPlan]) -> None:
        """What is ready and missing, as far as there is room."""
        ready = [step for step in steps if step.state is StepState.READY]
        self._missing = {step.label: step.missing for step in ready}
        for step in ready:
            self._adopt(step)
        ready = [step for step in ready if any(True for _ in self._to_launch(step))]
        for number, step in enumerate(ready):
            free = self._world.parallelism - sum(map(self._width, self._active.values()))
            shards = tuple(self._to_launch(step))
            if free <= 0 or not shards or (addresses := self._addresses(step)) is None:
                continue
            if self._world.launcher.group_size and shards != (None,):
                share = max(1, free // (len(ready) - number))  # steps side by side, if there is room
                self._launch(step, shards[: self._world.launcher.group_size], addresses, share)
                continue
            for shard in shards[:free]:
                self._launch(step, (shard,), addresses)

    def _width(self, job: ActiveJob) -> int:
        """Shards that it does at a time: none where all are published and the job is only about to end."""
        missing = set(self._missing.get(job.step.label, ()))
        return min(job.spec.parallelism, sum(shard in missing for shard in job.shards))

    def _to_launch(self, step: StepPlan) -> Iterator[Shard]:
        """Shards that no job does. By key: the next iteration's warm model is this one's evolved model, one piece of work under two names."""
        assert step.work is not None
        key, now = step.work.key, time.monotonic()
        busy = {shard for job in self._active.values() if job.key == key for shard in job.shards}
        return (shard for shard in step.missing if shard not in busy and now >= self._retry_at.get((key, shard), 0.0))

    def _launch(self, step: StepPlan, shards: tuple[Shard, ...], addresses: Mapping[str, str], parallelism: int = 1) -> None:
        assert step.work is not None
        grouped = bool(self._world.launcher.group_size) and shards != (None,)
        place = None if grouped else shards[0]
        self._attempts[step.label, place] += 1
        attempt = self._attempts[step.label, place]
        for shard in shards:
            self._tried[step.label, shard] += 1
        name = "-".join(
            [
                self._run.id,
                str(step.iteration),
                step.name.replace("/", "-"),
                *([] if place is None else [str(place)]),
                str(attempt),
            ]
        )
        if step.work.key not in self._saved:  # once for all its shards
            work.save(self._world.artifacts.store, step.work)
            self._saved.add(step.work.key)
        self.launched.add(step.label)
        job = ActiveJob(self._spec(name, step, shards, addresses, parallelism), step, shards, attempt)
        started = {**_of(job), "job": name}
        self._record({"type": "step_started", **started, **({"shards": list(shards)} if grouped else {})})
        self._active[name] = job
        self._submit(job)

    def _spec(
        self, name: str, step: StepPlan, shards: tuple[Shard, ...], addresses: Mapping[str, str], parallelism: int
    ) -> JobSpec:
        assert step.work is not None
        numbers = tuple(shard for shard in shards if shard is not None) if self._world.launcher.group_size else ()
        place = SHARD if numbers else "-" if shards[0] is None else str(shards[0])
        args = (self._world.store_uri, step.work.key, place, name, json.dumps(dict(addresses), sort_keys=True))
        labels = {"run": self._run.id, "key": step.work.key}
        return JobSpec(name, _ENTRYPOINT, args, labels, numbers, parallelism)

    def _submit(self, job: ActiveJob) -> None:
        """Once or again: where nobody answers, the same name is asked for until somebody does."""
        assert job.step.work is not None
        try:
            if _trains(job.step):
                job.training = TrainingJob(self._world.trainer(), job.step.work, self._run.id)
            else:
                self._world.launcher.submit(job.spec)
        except errors.Unavailable as error:
            self._bear(job, error)
            return
        job.submitted, job.reason, job.heard = True, "", time.monotonic()

    def _bear(self, job: ActiveJob, error: errors.Unavailable) -> None:
        """Somebody is away for a while, an upgrade perhaps. Raises the error when it was long enough."""
        if time.monotonic() - job.heard > self._world.patience_s:
            raise error
        if not job.reason:
            log.warning("Run %s: %s: %s", self._run.id, job.spec.name, error.message)
        job.reason = error.message

    def _adopt(self, step: StepPlan) -> None:
        """Takes over jobs of the step that still run, if what they do is what would be done now; others are ended."""
        left = self._left.pop(step.label, [])
        running = [event for event in left if self._world.launcher.state(event["job"]).state is JobState.RUNNING]
        if not running:
            return
        if (addresses := self._addresses(step)) is None:
            self._left[step.label] = running  # later
            return
        for event in running:
            shards: tuple[Shard, ...] = tuple(event.get("shards") or [_place(event)])
            spec = self._spec(event["job"], step, shards, addresses, self._world.parallelism)
            try:
                self._world.launcher.submit(spec)
            except errors.AlreadyExists:
                self._world.launcher.cancel(event["job"])
                continue
            log.info("Run %s: %s still runs and is taken over", self._run.id, spec.name)
            for shard in shards:
                self._tried[step.label, shard] += 1
            self.launched.add(step.label)
            self._active[spec.name] = ActiveJob(spec, step, shards, event["attempt"], submitted=True)

    # -------------------------------------------------------------- looking

    def look(self) -> bool:
        """Once at each job. Raises what ends the run. Whether anything is worth telling whoever watches."""
        before = (self.waiting, {label: replace(one) for label, one in self.progress.items()})
        for job in list(self._active.values()):
            if not job.submitted:
                self._submit(job)
                continue
            self._look_at_progress(job)
            status = self._status(job)
            job.reason = status.reason
            if status.state is JobState.RUNNING:
                continue
            del self._active[job.spec.name]
            there = self._published(job.key, job.shards)
            if missing := [shard for shard in job.shards if shard not in there]:
                self._failed(job, missing, status)
        return before != (self.waiting, self.progress)

    def _status(self, job: ActiveJob) -> JobStatus:
        try:
            status = job.training.status() if job.training else self._world.launcher.state(job.spec.name)
        except errors.Unavailable as error:
            self._bear(job, error)
            return JobStatus(JobState.RUNNING, reason=error.message)
        job.heard = time.monotonic()
        return status

    def _failed(self, job: ActiveJob, missing: Sequence[Shard], status: JobStatus) -> None:
        code = status.exit_code or errors.Corrupt.exit_code  # it ended well, but what it published is damaged or gone
        message = status.message or (_GONE if status.state is JobState.UNKNOWN else _WORDLESS)
        tried = max(self._tried[job.step.label, shard] for shard in missing)
        retry = code not in errors.FINAL_EXIT_CODES and tried < self._world.max_attempts
        self._saved.clear()
        self._stumbled()
        failed = {"exit_code": code, "error": message, "will_retry": retry}
        self._record({"type": "step_failed", **_of(job), **failed})
        if not retry:
            raise _error_of(code)(f"Step {job.step.label} failed: {message}")
        for shard in missing:
            self._retry_at[job.key, shard] = time.monotonic() + self._world.backoff_s * 2 ** (tried - 1)

    def _look_at_progress(self, job: ActiveJob) -> None:
        trained = job.training.progress() if job.training else None
        latest = {None: trained} if trained else {} if job.training else self._new_progress(job)
        job.progress.update({shard: Progress(**report) for shard, report in latest.items()})
        if not job.progress or job.step.label not in self._missing:  # all of it is published: it is only about to end
            return
        assert job.step.work is not None
        if not job.step.work.parts:
            self.progress[job.step.label] = job.progress[None]
            return
        rows, missing = self._shard_rows(job.step.work), set(self._missing[job.step.label])
        together = [one for one in self._active.values() if one.step.label == job.step.label]
        at_work = sum(one.done for other in together for shard, one in other.progress.items() if shard in missing)
        finished = sum(rows) - sum(rows[shard] for shard in missing if shard is not None)
        last = next(reversed(job.progress.values()))
        self.progress[job.step.label] = replace(last, done=finished + at_work, total=sum(rows))

    def _new_progress(self, job: ActiveJob) -> dict[Shard, dict[str, Any]]:
        """The last report of each shard in what is new of the log."""
        latest: dict[Shard, dict[str, Any]] = {}
        lines = self._world.launcher.logs(job.spec.name, job.log_lines)
        job.log_lines += len(lines)
        for line in lines:
            if found := _PROGRESS.match(line):
                shard = int(found[1]) if found[1] else job.shards[0]
                latest[shard] = json.loads(found[2])["progress"]
        return latest

    def _shard_rows(self, todo: work.Work) -> list[int]:
        """Rows of each shard. All but the last are full."""
        if todo.key not in self._rows:
            last = max(todo.inputs["rows"], key=lambda file: -1 if file.part is None else file.part)
            full = [self._run.spec.shard_rows] * (len(todo.shards) - 1)
            self._rows[todo.key] = [*full, len(self._world.artifacts.read_json_lines(last.file))]
        return self._rows[todo.key]

    # -------------------------------------------------------------- ending

    def leave(self) -> None:
        """The controller goes, the run does not: jobs that outlive it go on and are found again, others end."""
        if not self._world.launcher.lasting:
            self.end(everywhere=False)
        self._active.clear()

    def end(self, *, everywhere: bool) -> None:
        """Stops all jobs, those that earlier controllers left included; returns when none runs. What an endpoint trains goes on, unless
        `everywhere`: it costs money, and the run finds it again."""
        names = still_running(self._world.launcher, [event for events in self._left.values() for event in events])
        names += [job.spec.name for job in self._active.values() if not _trains(job.step)]
        training = [job.training for job in self._active.values() if job.training]
        ends: list[Callable[[], object]] = [partial(self._world.launcher.cancel, name) for name in names]
        ends += [one.cancel for one in training if everywhere or not one.elsewhere]
        self._active.clear()
        self._left.clear()
        with ThreadPoolExecutor(_ENDING_AT_ONCE, thread_name_prefix="ending") as pool:
            for ended in [pool.submit(end) for end in ends]:
                ended.result()


def still_running(launcher: Launcher, events: Sequence[Event]) -> list[str]:
    """Names of the jobs that these events began and that are at work."""
    names = [event["job"] for event in _unended(events)]
    return [name for name in names if launcher.state(name).state is JobState.RUNNING]


def _unended(events: Sequence[Event]) -> list[Event]:
    """The beginnings of jobs of which nobody recorded a failure: they have succeeded, run, or are gone."""
    failed = {(step_label(event), event["shard"], event["attempt"]) for event in events if event["type"] == "step_failed"}
    started = (event for event in events if event["type"] == "step_started")
    return [event for event in started if (step_label(event), event["shard"], event["attempt"]) not in failed]


def _trains(step: StepPlan) -> bool:
    return step.work is not None and step.work.kind == "train"


def _place(event: Event) -> Shard:
    return event["shard"] if event["shard"] >= 0 else None


def _of(job: ActiveJob) -> Event:
    """Which attempt an event is about."""
    place = -1 if job.place is None else job.place
    return {"iteration": job.step.iteration, "step": job.step.name, "shard": place, "attempt": job.attempt}


def _error_of(exit_code: int) -> type[errors.SemiEvolError]:
    """The class that a job's exit code stands for."""
    classes: dict[int, type[errors.SemiEvolError]] = {
        cls.exit_code: cls
        for cls in (errors.InternalError, errors.Corrupt, errors.Conflict, errors.Busy, errors.Unavailable, errors.NotAllowed)
    }
    return classes.get(exit_code, errors.InvalidInput if exit_code == errors.InvalidInput.exit_code else errors.InternalError)
