"""What earlier runs tell a plan: which of them made a step, how long it took for how many rows, what became of the rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.runspec import RunSpec
from semievol.controller.models import published_seconds
from semievol.controller.plan import Resolved
from semievol.controller.preview import RowPreview
from semievol.controller.runs import Event, RunRecord, RunStore, step_label

_MOST_RUNS = 20  # that are looked at, newest first
_MOST_EVENTS = 20_000  # of all of them: each is an object to read, and a run of a million rows may have more than that alone


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of one iteration. `judged`: of the unlabeled; `selected`: of them, too."""

    labeled: float
    unlabeled: float
    test: float
    dev: float
    judged: float
    selected: float

    def evolution(self, spec: RunSpec) -> float:
        """Rows that M_evol is trained on."""
        return self.selected + (self.labeled if spec.include_labeled else 0)


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """`keys` by step label, of the steps that it did itself; `counts` of its first iteration, None if it did not get so far."""

    record: RunRecord
    keys: dict[str, str]
    counts: Counts | None


class History:
    """The runs of a store, those of one name first."""

    def __init__(self, runs: RunStore, artifacts: Artifacts, name: str, resolved: Resolved) -> None:
        records = sorted(runs.all(), key=lambda record: record.spec.name != name)[:_MOST_RUNS]
        self._artifacts = artifacts
        self._resolved = resolved
        self._seconds: dict[str, float] = {}  # by key
        self._begun: dict[str, tuple[float, float, float, float] | None] = {}  # by key of intake
        self._read: dict[str, Any] = {}  # by key: runs share steps, and looking at one means looking at all its files
        self.runs = [self._earlier(record, events) for record, events in _events(runs, artifacts, records)]
        self._made = {key: run.record.id for run in reversed(self.runs) for key in run.keys.values()}
        self.newest = self.runs[0] if self.runs and self.runs[0].record.spec.name == name else None

    def maker(self, key: str) -> str:
        """Id of the run that made the step; empty if none of those that are known did."""
        return self._made.get(key, "")

    def seconds(self, run: EarlierRun, label: str) -> float:
        """Work time of a step that the run did itself, by its attempts' records; 0 if there are none."""
        key = run.keys.get(label, "")
        if key and key not in self._seconds:
            self._seconds[key] = published_seconds(self._artifacts, key)
        return self._seconds.get(key, 0.0)

    def comparable(self) -> list[EarlierRun]:
        """Runs whose models and engine are this run's, so that their speeds are, too."""
        return [run for run in self.runs if run.record.resolved == self._resolved and run.counts]

    def _earlier(self, record: RunRecord, events: list[Event]) -> EarlierRun:
        done = [event for event in events if event["type"] == "step_succeeded"]
        keys = {step_label(event): event["key"] for event in done}
        known = keys | {step_label(event): event["key"] for event in events if event["type"] == "step_reused"}
        return EarlierRun(record, keys, self._counts(known))

    def _counts(self, keys: dict[str, str]) -> Counts | None:
        """From what intake and the report published."""
        key = keys.get("0/intake", "")
        if key not in self._begun:
            self._begun[key] = self._beginning(key)
        rows = self._begun[key]
        if rows is None:
            return None
        report = self._json(keys.get("1/report", ""), "report.json") or {}
        return Counts(*rows, float(report.get("judged", 0)), float(report.get("selected", 0)))

    def _beginning(self, key: str) -> tuple[float, float, float, float] | None:
        """Labeled, unlabeled, test and dev rows after intake; None where it is gone or damaged."""
        try:
            manifest = self._artifacts.manifest(key, verify=False) if key else None
            if manifest is None:
                return None
            rows = RowPreview(manifest, False, 0.0, self._artifacts)
            return (
                float(rows.count("labeled")),
                float(rows.count("unlabeled")),
                float(rows.count("test")),
                float(rows.count("dev")),
            )
        except errors.Corrupt:
            return None

    def _json(self, key: str, path: str) -> Any:
        """None where it is gone or damaged: it is only an estimate that wants it."""
        if key and key not in self._read:
            try:
                manifest = self._artifacts.manifest(key, verify=False)
                self._read[key] = json.loads(self._artifacts.read(manifest.file(path))) if manifest else None
            except errors.Corrupt:
                self._read[key] = None
        return self._read.get(key)


def _events(runs: RunStore, artifacts: Artifacts, records: list[RunRecord]) -> Iterator[tuple[RunRecord, list[Event]]]:
    """A run whose events are too many is known, but not what it made."""
    left = _MOST_EVENTS
    for record in records:
        count = len(artifacts.store.list(f"runs/{record.id}/events/"))
        yield record, runs.events(record.id) if count <= left else []
        left -= count if count <= left else 0
