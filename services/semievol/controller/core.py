"""What the controller can be asked for, in plain values."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from semievol.common import errors, uploads
from semievol.common.artifacts import Look
from semievol.common.findings import Finding
from semievol.common.registry import FULL_WEIGHT, Alias, Model
from semievol.common.runspec import RunSpec
from semievol.controller.additions import check_rows, next_iteration
from semievol.controller.cleaning import drop_collections, forget_from, garbage, stray_directories, unregister_models
from semievol.controller.diagnosis import Parts, diagnose
from semievol.controller.exporting import ExportedRow, exported_iteration, pages
from semievol.controller.forecast import Forecast, Forecaster
from semievol.controller.inspection import Inspector
from semievol.controller.jobs import still_running
from semievol.controller.models import models_of, result
from semievol.controller.plan import Addition, StepPlan
from semievol.controller.reconcile import RunDriver
from semievol.controller.resolve import Resolver
from semievol.controller.runs import Event, RunRecord, run_state, step_label
from semievol.controller.surroundings import Surroundings
from semievol.controller.views import RunView, engines_used, last_session, progress_event, step_view
from semievol.ports import NEVER, Cancel, JobState, LogPart

log = logging.getLogger(__name__)

HANDOVER_S = 5.0  # what a call is told to wait while no replica acts: a Lease that was given back is taken within ten
_WATCH_POLL_S = 0.5  # another controller may be at work on the same store: look by ourselves, too


@dataclass(frozen=True)
class Collected:
    """Garbage that was deleted, or would be: objects and files, their bytes, collections of the vector store; `notes`: what is odd."""

    object_count: int
    size_bytes: int
    collections: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Controller:
    """Plans, drives and remembers runs. One per store may drive; any number may look."""

    def __init__(
        self,
        surroundings: Surroundings,
        resolver: Resolver,
        models_directory: Path | None,
        forecaster: Forecaster,
        parts: Parts,
    ) -> None:
        self._world = surroundings
        self._resolver = resolver
        self._forecaster = forecaster
        self._parts = parts
        self.inspector = Inspector(surroundings.artifacts, surroundings.runs)
        self._models_directory = models_directory
        self._drivers: dict[str, RunDriver] = {}
        self._lock = threading.Lock()

    # -------------------------------------------------------------- data

    def begin_upload(self, name: str) -> uploads.Upload:
        """Raises InvalidInput (name)."""
        return uploads.Upload(self._world.artifacts.store, name)

    # -------------------------------------------------------------- runs

    def plan_run(self, spec: RunSpec, *, cancel: Cancel = NEVER) -> Forecast:
        """What the run would do. Starts nothing. Raises what intake raises, Conflict (other models are served), Unavailable."""
        return self._forecaster.forecast(spec, self._resolver.resolve(spec), cancel=cancel)

    def submit(self, spec: RunSpec) -> RunView:
        """Starts the run, or lets it go on. Raises InvalidInput, Conflict (other models are served), Unavailable."""
        self._must_lead()
        record = self._world.runs.create(spec, self._resolver.resolve(spec))
        self._drive(record)
        return self.get(record.id)

    def retry(self, name: str, from_step: str = "") -> RunView:
        """`from_step` (`1/infer/warm-2`): it and what follows from it is done again. Raises NotFound, Conflict (at work)."""
        self._must_lead()
        record = self._world.runs.find(name)
        if self._driver(record.id):
            raise errors.Conflict(f"The run {record.id} is at work; there is nothing to retry.", field="run")
        self._resolver.resolve(record.spec)
        if from_step:
            self._refuse_while_at_work("Doing steps again takes them from all runs that share them")
            forget_from(self._world.artifacts, record.id, self._plan(record), from_step)
        self._drive(record)
        return self.get(record.id)

    def add_data(self, name: str, uri: str) -> tuple[RunView, int, tuple[int, int]]:
        """More unlabeled rows for the next iteration that has not begun; (the run, that iteration, (rows, those that it has not taken in yet)). A
        run that has ended is not started.

        Raises NotFound, InvalidInput (rows that cannot be used; an id that is another row's)."""
        self._must_lead()
        record = self._world.runs.find(name)
        counts = check_rows(self._world.artifacts, record, self._plan(record), uri)
        with self._lock:
            driver = self._drivers.get(record.id)
            at_work = driver is not None and driver.alive
            # planned anew: the run may have gone on while the rows were read
            addition = Addition(next_iteration(self._plan(record), at_work=at_work), uri)
            self._world.runs.add_data(record.id, addition)
            record = self._world.runs.load(record.id)
            if driver is not None:
                driver.take_up(record.additions)
        return self.get(record.id), addition.iteration, counts

    def cancel(self, name: str) -> RunView:
        """Returns when none of its jobs runs any more; a finished run stays as it is. Raises NotFound."""
        self._must_lead()
        record = self._world.runs.find(name)
        driver = self._driver(record.id)
        if driver:
            driver.cancel()
        elif run_state(self._world.runs.events(record.id)) == "running":  # left behind by a controller that is gone
            self._end_left_jobs(record)
            self._world.runs.append(record.id, {"type": "run_cancelled"})
            self._recovered()
        return self.get(record.id)

    def delete(self, name: str) -> tuple[str, list[str]]:
        """(its id, the models that are gone with it). Raises NotFound, Conflict (at work)."""
        self._must_lead()
        record = self._world.runs.find(name)
        if self._driver(record.id):
            raise errors.Conflict(f"The run {record.id} is at work: cancel it first.", field="run")
        gone = unregister_models(self._world.registry, record.id)
        self._world.forget_run(record.id)  # before its record, so that a deletion that was cut off can be done again
        self._world.runs.delete(record.id)
        return record.id, gone

    def collect_garbage(self, *, dry_run: bool) -> Collected:
        """What was deleted, or would be. Raises Conflict (a run is at work), Corrupt (a run's record, so that nobody knows what it needs)."""
        self._must_lead()
        self._refuse_while_at_work("Collecting garbage must not meet a run's half-written steps")
        models = self._world.registry.models()
        rubbish = garbage(self._world.artifacts, self._world.runs.all(strict=True), self._world.runs.events, models)
        found, dropped, notes = rubbish.objects, [], list(rubbish.notes)
        try:  # first: once the steps are gone nobody knows the names
            if rubbish.collections:
                dropped = drop_collections(self._parts.index(), rubbish.collections, dry_run=dry_run)
        except errors.SemiEvolError as error:
            names = ", ".join(rubbish.collections)
            notes.append(f"These collections stay, if they are in the vector store: {names}. {error.message}")
        stray = stray_directories(self._models_directory, models) if self._models_directory else []
        files = [file for directory in stray for file in directory.rglob("*") if file.is_file()]
        size = sum(info.size for info in found) + sum(file.stat().st_size for file in files)
        if not dry_run:
            for info in found:
                self._world.artifacts.store.delete(info.path)
            for directory in stray:
                shutil.rmtree(directory)
            self._world.artifacts.distrust()
        return Collected(len(found) + len(files), size, tuple(dropped), tuple(notes))

    def _must_lead(self) -> None:
        if leader := self._world.leader():
            raise errors.NotActing(
                f"This replica of the controller does not act at the moment (who does: {leader}); try again in a few seconds.",
                retry_after_s=HANDOVER_S,
            )

    def _end_left_jobs(self, record: RunRecord) -> None:
        """Those of a run that nobody drives."""
        for name in still_running(self._world.launcher, self._world.runs.events(record.id)):
            self._world.launcher.cancel(name)

    def _refuse_while_at_work(self, why: str) -> None:
        busy = [record.id for record in self._world.runs.all() if self._driver(record.id)]
        if busy:
            raise errors.Conflict(f"{why}, and {', '.join(busy)} is at work: wait for it, or cancel it.")

    def get(self, name: str) -> RunView:
        """Raises NotFound."""
        record = self._world.runs.find(name)
        events = self._world.runs.events(record.id)
        steps = self._plan(record)
        driver = self._driver(record.id)
        session = last_session(events)
        reused = {step_label(event) for event in session if event["type"] == "step_reused"}
        failed = {step_label(event) for event in session if event["type"] == "step_failed" and not event["will_retry"]}
        state = run_state(events)
        error = next((event for event in reversed(session) if event["type"] == "run_failed"), {})
        if state == "running" and (fault := self._unrecorded(record.id)):
            state, error = "failed", {"error": fault.message, "error_class": type(fault).__name__}
        views = [step_view(step, state, reused, failed, driver) for step in steps]
        outcome = result(self._world.artifacts, record, state, steps, reused, self.directory_of)
        outcome["engines"] = engines_used(session)
        start = session[0]["number"] if session else 0
        notes = (driver.note,) if driver and driver.note else ()
        return RunView(record, state, tuple(views), error.get("error", ""), error.get("error_class", ""), outcome, start, notes)

    def runs(self) -> list[RunView]:
        """All runs, newest first, without steps."""
        return [RunView(record, run_state(self._world.runs.events(record.id))) for record in self._world.runs.all()]

    def watch(self, name: str, start: int = 1, *, cancel: Cancel = NEVER) -> Iterator[Event]:
        """Recorded events from number `start`, progress in between (`{"type": "step_progress", "number": 0, ...}`), until the run has ended."""
        record, next_number, seen = self._world.runs.find(name), max(1, start), -1
        while not cancel.is_set():
            driver = self._driver(record.id)
            version = driver.version if driver else -1
            events = self._world.runs.events(record.id, next_number)
            yield from events
            next_number = events[-1]["number"] + 1 if events else next_number  # damaged ones are left out
            if driver is None and (self._unrecorded(record.id) or run_state(self._world.runs.events(record.id)) != "running"):
                return
            if driver is None:
                time.sleep(_WATCH_POLL_S)
                continue
            if version != seen:
                yield from (progress_event(label, one) for label, one in list(driver.progress.items()))
            seen = version
            driver.wait_for_change(version, _WATCH_POLL_S)

    def logs(
        self,
        name: str,
        step: str = "",
        *,
        follow: bool = False,
        positions: Mapping[str, str] = MappingProxyType({}),
        cancel: Cancel = NEVER,
    ) -> Iterator[tuple[str, LogPart]]:
        """(job, new lines) of the run's jobs, or of one step's (`1/infer/warm-2`). `positions`: of jobs, where to go on. Raises NotFound,
        InvalidInput (a position that is none)."""
        record = self._world.runs.find(name)
        read = dict(positions)  # job -> behind the lines that were sent
        ended: set[str] = set()  # jobs whose logs were read to the end
        known = {view.step.label for view in self.get(record.id).steps}
        if step and step not in known:
            raise errors.NotFound(f"The run {record.id} has no step {step!r}; it has {', '.join(sorted(known))}.", field="step")
        while True:
            events = self._world.runs.events(record.id)
            # by its record: whoever drives it may be another replica, or be on its way
            running = self._driver(record.id) is not None or (run_state(events) == "running" and not self._unrecorded(record.id))
            for event in events:
                if event["type"] != "step_started" or (step and step != step_label(event)):
                    continue
                job = event["job"]
                if job in ended:
                    continue
                over = self._world.launcher.state(job).state in (JobState.SUCCEEDED, JobState.FAILED)
                part = self._world.launcher.log_part(job, read.get(job, ""))
                ended |= {job} if over else set()
                read[job] = part.position
                if part.lines:
                    yield job, part
            if not follow or not running or cancel.is_set():
                return
            time.sleep(_WATCH_POLL_S)

    def export(self, name: str, iteration: int = 0, *, cancel: Cancel = NEVER) -> Iterator[tuple[str, list[ExportedRow]]]:
        """(run id, page of rows that the model of this iteration was trained on; 0: of the last that has selected). Raises NotFound,
        Conflict (nothing is selected yet)."""
        record = self._world.runs.find(name)
        steps = self._plan(record)
        wanted = exported_iteration(steps, iteration, record.id)
        warm = {model.iteration: model.name for model in models_of(self._world.artifacts, record, steps) if model.role == "warm"}
        for page in pages(self._world.artifacts, steps, wanted, lambda number: warm.get(number, record.spec.model)):
            if cancel.is_set():
                return
            yield record.id, page

    # -------------------------------------------------------------- models

    def models(self) -> tuple[list[Model], list[Alias]]:
        return self._world.registry.models(), self._world.registry.aliases()

    def promote(self, model: str, alias: str, weight: int = 0) -> Alias:
        """`weight`: percent of the alias's calls; 0 means all. Raises NotFound, InvalidInput, Conflict."""
        return self._world.registry.promote(model, alias, weight or FULL_WEIGHT)

    def rollback(self, alias: str) -> Alias:
        return self._world.registry.rollback(alias)

    def directory_of(self, model: Model) -> str | None:
        """The model as a plain PEFT directory on this machine, laid out if need be; None where this controller lays out none."""
        if self._models_directory is None:
            return None
        manifest, _ = self._world.artifacts.resolve(model.uri, field="uri")
        return str(self._world.artifacts.fetch(manifest, self._models_directory / model.name))

    # -------------------------------------------------------------- life

    def diagnose(self, *, train: bool = False, cancel: Cancel = NEVER) -> list[Finding]:
        """Tries every part with one row; what fails is a finding."""
        return diagnose(self._parts, train=train, cancel=cancel)

    def probe(self) -> None:
        """One look at what it stands on: the store's runs, the launcher's jobs. Raises what they raise."""
        self._world.runs.all()
        self._world.launcher.state("probe")

    def resume_all(self) -> None:
        """Lets every unfinished run go on, if this controller is the one that acts. One that is driven here is driven anew: where this controller
        did not act for a while, its driver has stopped, or is about to, or knows nothing of what another controller did meanwhile."""
        if self._world.leader():
            return
        for record in self._recovered():
            if driver := self._driver(record.id):
                driver.stop()
            log.info("Resuming run %s", record.id)
            self._drive(record)

    def _recovered(self) -> list[RunRecord]:
        """The unfinished runs, when what was left behind by others is gone."""
        unfinished = [one for one in self._world.runs.all() if run_state(self._world.runs.events(one.id)) == "running"]
        self._world.recover([record.id for record in unfinished])
        return unfinished

    def close(self) -> None:
        """Stops driving; unfinished runs go on with the next controller."""
        with self._lock:
            drivers = list(self._drivers.values())
        for driver in drivers:
            driver.stop()

    def _plan(self, record: RunRecord) -> list[StepPlan]:
        """To show or to read: what is read is verified then, so blobs are not hashed for this."""
        return record.plan(Look(self._world.artifacts, verify=False))

    def _drive(self, record: RunRecord) -> None:
        with self._lock:
            current = self._drivers.get(record.id)
            if current and current.alive:
                return
            driver = RunDriver(record, self._world)
            self._drivers[record.id] = driver
            driver.start()

    def _driver(self, run_id: str) -> RunDriver | None:
        """The driver of a run that is at work here."""
        with self._lock:
            driver = self._drivers.get(run_id)
        return driver if driver and driver.alive else None

    def _unrecorded(self, run_id: str) -> errors.SemiEvolError | None:
        """What ended a run that was at work here, if the store did not take it."""
        with self._lock:
            driver = self._drivers.get(run_id)
        return driver.unrecorded if driver and not driver.alive else None
