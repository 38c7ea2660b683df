"""Runs as objects in the store, and nowhere else.

runs/<run id>/RUN.json              spec and resolved models: written once
runs/<run id>/events/<number>.json  what happened: append-only, numbered from 1 without gaps by conditional create
runs/<run id>/data/<number>.json    unlabeled rows that came later, and the iteration that takes them up; likewise
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from semievol.common import errors
from semievol.common.keys import canonical_json, content_key
from semievol.common.records import damaged, read_record
from semievol.common.runspec import RunSpec, parse_run_spec
from semievol.controller.plan import Addition, Done, ManifestOf, Resolved, StepPlan, plan
from semievol.ports import ObjectStore

log = logging.getLogger(__name__)

Event = dict[str, Any]  # {"type": "step_started", "number": 3, "time": seconds since 1970, ...}

TERMINAL = ("run_succeeded", "run_failed", "run_cancelled")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run is. Its id is its name and the beginning of the hash of everything else but later data: the same spec is the same run."""

    id: str
    spec: RunSpec
    resolved: Resolved
    create_time: float
    additions: tuple[Addition, ...] = ()

    def plan(self, manifest_of: ManifestOf, done: Done | None = None) -> list[StepPlan]:
        """See `plan.plan`."""
        return plan(self.spec, self.resolved, manifest_of, self.additions, done)


class RunStore:
    """Creates, finds and remembers runs. Events that were read once are kept: they are never changed, and a long run has many."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: dict[str, list[Event]] = {}  # by run, in order of their numbers
        self._next: dict[str, int] = {}  # the number after the last event that is known to be there, damaged ones included
        self._lock = threading.Lock()

    def create(self, spec: RunSpec, resolved: Resolved) -> RunRecord:
        """The run of this spec; made now if it is new, and anew if its record is damaged."""
        run_id = run_id_of(spec, resolved)
        body = {"id": run_id, "spec": spec.model_dump(mode="json"), "resolved": asdict(resolved), "create_time": time.time()}
        if self._store.create(_record_path(run_id), canonical_json(body)):
            with self._lock:  # what was known of a run that was deleted is over
                self._known.pop(run_id, None)
        else:
            try:
                return self.load(run_id)
            except errors.Corrupt:
                self._store.put(_record_path(run_id), canonical_json(body))
        return self.load(run_id)

    def load(self, run_id: str) -> RunRecord:
        """Raises NotFound, Corrupt (the record is not the one that has this id)."""
        try:
            body = read_record(self._store, _record_path(run_id))
            additions = tuple(Addition(one["iteration"], one["uri"]) for one in self._added(run_id))
            record = RunRecord(
                body["id"], parse_run_spec(body["spec"]), Resolved(**body["resolved"]), body["create_time"], additions
            )
            # by the values as they were written: a later version's spec may have more keys
            intact = _run_id(record.spec.name, body["spec"], body["resolved"]) == run_id == record.id
        except (errors.NotFound, errors.InvalidInput) as error:
            raise errors.NotFound(f"There is no run {run_id!r}.", field="run") from error
        except (KeyError, TypeError) as error:
            raise damaged(_record_path(run_id)) from error
        if not intact:
            raise damaged(_record_path(run_id))
        return record

    def add_data(self, run_id: str, addition: Addition) -> None:
        """Records that an iteration takes up more unlabeled rows."""
        number = len(self._added(run_id)) + 1
        body = canonical_json(asdict(addition) | {"time": time.time()})
        while not self._store.create(f"runs/{run_id}/data/{number:08d}.json", body):
            number += 1

    def _added(self, run_id: str) -> list[dict[str, Any]]:
        return [read_record(self._store, info.path) for info in self._store.list(f"runs/{run_id}/data/")]

    def all(self, *, strict: bool = False) -> list[RunRecord]:
        """Newest first. A run whose record is damaged is left out, with a warning: the others are none the worse. `strict`: for those who
        delete what no run needs; raises Corrupt instead."""
        runs = []
        for run_id in self._ids():
            try:
                runs.append(self.load(run_id))
            except errors.Corrupt as error:
                if strict:
                    raise
                log.warning("%s", error.message)
        return sorted(runs, key=lambda run: (-run.create_time, run.id))

    def find(self, name: str) -> RunRecord:
        """By id, or the newest run of a name. Raises NotFound that lists what there is, Corrupt."""
        runs = self.all()
        for run in runs:
            if name in (run.id, run.spec.name):
                return run
        for run_id in self._ids():
            if name in (run_id, run_id.rpartition("-")[0]):
                raise damaged(_record_path(run_id))
        known = ", ".join(run.id for run in runs[:5]) or "none yet"
        raise errors.NotFound(f"There is no run {name!r}; known runs: {known}.", field="run")

    def delete(self, run_id: str) -> None:
        """Its record last, so that a deletion that was cut off can be done again."""
        with self._lock:
            for info in self._store.list(f"runs/{run_id}/"):
                if info.path != _record_path(run_id):
                    self._store.delete(info.path)
            self._store.delete(_record_path(run_id))
            self._known.pop(run_id, None)

    def append(self, run_id: str, event: Mapping[str, Any]) -> Event:
        """Gives the event the next number and the time. Two writers cannot take the same number."""
        with self._lock:
            while True:
                self._read_on(run_id)
                numbered = {**event, "number": self._next[run_id], "time": time.time()}
                if self._store.create(_event_path(run_id, self._next[run_id]), canonical_json(numbered)):
                    self._known[run_id].append(numbered)
                    self._next[run_id] += 1
                    return numbered

    def events(self, run_id: str, start: int = 1) -> list[Event]:
        """Events from number `start` on. One that is damaged is left out, with a warning."""
        with self._lock:
            known = self._read_on(run_id)
            return known[bisect_left(known, start, key=_number) :]

    def _ids(self) -> list[str]:
        return [info.path.split("/")[1] for info in self._store.list("runs/") if info.path.endswith("/RUN.json")]

    def _read_on(self, run_id: str) -> list[Event]:
        """What is known, with what has come since. The first time the store is listed; later only the next number is asked for."""
        if run_id not in self._known:
            self._known[run_id], self._next[run_id] = [], 1
            for info in self._store.list(f"runs/{run_id}/events/"):
                self._take(run_id, int(info.path.rpartition("/")[2].removesuffix(".json")))
        while self._take(run_id, self._next[run_id]):
            pass
        return self._known[run_id]

    def _take(self, run_id: str, number: int) -> bool:
        """Reads one event; whether it is there."""
        try:
            self._known[run_id].append(read_record(self._store, _event_path(run_id, number)))
        except errors.NotFound:
            return False
        except errors.Corrupt as error:
            log.warning("%s", error.message)
        self._next[run_id] = number + 1
        return True


def _record_path(run_id: str) -> str:
    return f"runs/{run_id}/RUN.json"


def _event_path(run_id: str, number: int) -> str:
    return f"runs/{run_id}/events/{number:08d}.json"


def _number(event: Event) -> int:
    return int(event["number"])


def run_id_of(spec: RunSpec, resolved: Resolved) -> str:
    return _run_id(spec.name, spec.model_dump(mode="json"), asdict(resolved))


def _run_id(name: str, spec: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    return f"{name}-{content_key({'spec': spec, 'resolved': resolved})[:8]}"


def run_state(events: list[Event]) -> str:
    """running | succeeded | failed | cancelled, by the last event that says so (R11)."""
    for event in reversed(events):
        if event["type"] in TERMINAL:
            return str(event["type"]).removeprefix("run_")
        if event["type"] == "run_started":
            break
    return "running"


def step_label(event: Event) -> str:
    """`1/infer/warm-2`: the step that a step's event is about."""
    return f"{event['iteration']}/{event['step']}"
