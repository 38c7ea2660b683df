"""Runs as objects in the store, and nowhere else.

runs/<run id>/RUN.json              spec and resolved models: written once
runs/<run id>/events/<number>.json  what happened: append-only, numbered from 1 without gaps by conditional create
runs/<run id>/data/<number>.json    unlabeled rows that came later, and the iteration that takes them up; likewise
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from semievol.common import errors
from semievol.common.keys import canonical_json, content_key
from semievol.common.runspec import RunSpec, parse_run_spec
from semievol.controller.plan import Addition, ManifestOf, Resolved, StepPlan, plan
from semievol.ports import ObjectStore

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

    def plan(self, manifest_of: ManifestOf) -> list[StepPlan]:
        return plan(self.spec, self.resolved, manifest_of, self.additions)


class RunStore:
    """Creates, finds and remembers runs."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def create(self, spec: RunSpec, resolved: Resolved) -> RunRecord:
        """The run of this spec; made now if it is new."""
        run_id = run_id_of(spec, resolved)
        body = {"id": run_id, "spec": spec.model_dump(mode="json"), "resolved": asdict(resolved), "create_time": time.time()}
        self._store.create(f"runs/{run_id}/RUN.json", canonical_json(body))
        return self.load(run_id)

    def load(self, run_id: str) -> RunRecord:
        """Raises NotFound."""
        try:
            with self._store.open(f"runs/{run_id}/RUN.json") as stream:
                body = json.loads(stream.read())
        except (errors.NotFound, errors.InvalidInput) as error:
            raise errors.NotFound(f"There is no run {run_id!r}.", field="run") from error
        additions = tuple(Addition(one["iteration"], one["uri"]) for one in self._numbered(run_id, "data"))
        return RunRecord(body["id"], parse_run_spec(body["spec"]), Resolved(**body["resolved"]), body["create_time"], additions)

    def add_data(self, run_id: str, addition: Addition) -> None:
        """Records that an iteration takes up more unlabeled rows."""
        self._append(run_id, "data", asdict(addition))

    def all(self) -> list[RunRecord]:
        """Newest first."""
        paths = [info.path for info in self._store.list("runs/") if info.path.endswith("/RUN.json")]
        runs = [self.load(path.split("/")[1]) for path in paths]
        return sorted(runs, key=lambda run: (-run.create_time, run.id))

    def find(self, name: str) -> RunRecord:
        """By id, or the newest run of a name. Raises NotFound that lists what there is."""
        runs = self.all()
        for run in runs:
            if name in (run.id, run.spec.name):
                return run
        known = ", ".join(run.id for run in runs[:5]) or "none yet"
        raise errors.NotFound(f"There is no run {name!r}; known runs: {known}.", field="run")

    def delete(self, run_id: str) -> None:
        """Its record last, so that a deletion that was cut off can be done again."""
        record = f"runs/{run_id}/RUN.json"
        for info in self._store.list(f"runs/{run_id}/"):
            if info.path != record:
                self._store.delete(info.path)
        self._store.delete(record)

    def append(self, run_id: str, event: Mapping[str, Any]) -> Event:
        """Gives the event the next number and the time. Two writers cannot take the same number."""
        return self._append(run_id, "events", event)

    def events(self, run_id: str, start: int = 1) -> list[Event]:
        """Events from number `start` on."""
        return self._numbered(run_id, "events", start)

    def _append(self, run_id: str, kind: str, body: Mapping[str, Any]) -> Event:
        number = len(self._store.list(f"runs/{run_id}/{kind}/")) + 1
        while True:
            numbered = {**body, "number": number, "time": time.time()}
            if self._store.create(f"runs/{run_id}/{kind}/{number:08d}.json", canonical_json(numbered)):
                return numbered
            number += 1

    def _numbered(self, run_id: str, kind: str, start: int = 1) -> list[dict[str, Any]]:
        found = []
        for info in self._store.list(f"runs/{run_id}/{kind}/"):
            if int(info.path.rpartition("/")[2].removesuffix(".json")) >= start:
                with self._store.open(info.path) as stream:
                    found.append(json.loads(stream.read()))
        return found


def run_id_of(spec: RunSpec, resolved: Resolved) -> str:
    return f"{spec.name}-{content_key({'spec': spec.model_dump(mode='json'), 'resolved': asdict(resolved)})[:8]}"


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
