"""Runs as objects in the store, and nowhere else.

runs/<run id>/RUN.json              spec and resolved models: written once
runs/<run id>/events/<number>.json  what happened: append-only, numbered from 1 without gaps by conditional create
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
from semievol.controller.plan import Resolved
from semievol.ports import ObjectStore

Event = dict[str, Any]  # {"type": "step_started", "number": 3, "time": seconds since 1970, ...}

TERMINAL = ("run_succeeded", "run_failed", "run_cancelled")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run is. Its id is its name and the beginning of the hash of everything else: the same spec is the same run."""

    id: str
    spec: RunSpec
    resolved: Resolved
    create_time: float


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
        return RunRecord(body["id"], parse_run_spec(body["spec"]), Resolved(**body["resolved"]), body["create_time"])

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

    def append(self, run_id: str, event: Mapping[str, Any]) -> Event:
        """Gives the event the next number and the time. Two writers cannot take the same number."""
        number = len(self.events(run_id)) + 1
        while True:
            numbered = {**event, "number": number, "time": time.time()}
            if self._store.create(f"runs/{run_id}/events/{number:08d}.json", canonical_json(numbered)):
                return numbered
            number += 1

    def events(self, run_id: str, start: int = 1) -> list[Event]:
        """Events from number `start` on."""
        found = []
        for info in self._store.list(f"runs/{run_id}/events/"):
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
