"""Runs and events in the store: numbered without gaps, read once, and readable although one of them is damaged."""

from __future__ import annotations

from typing import Any, BinaryIO

import pytest
from semievol.common import errors
from semievol.common.registry import Model, Registry
from semievol.common.runspec import parse_run_spec
from semievol.common.stores.fake import FakeStore
from semievol.controller.plan import Resolved
from semievol.controller.runs import RunRecord, RunStore, run_state

RESOLVED = Resolved("0" * 64, "fake", "1" * 64)
DATA = {"labeled": "data:a", "unlabeled": "data:b"}


class CountingStore(FakeStore):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.listed = 0

    def open(self, path: str) -> BinaryIO:
        self.opened += 1
        return super().open(path)

    def list(self, prefix: str) -> list[Any]:
        self.listed += 1
        return super().list(prefix)


def create(store: FakeStore, name: str = "one") -> tuple[RunStore, RunRecord]:
    runs = RunStore(store)
    spec = parse_run_spec({"name": name, "model": "m", "embedding": "e", "data": DATA})
    return runs, runs.create(spec, RESOLVED)


def test_events_are_numbered_from_one_whoever_writes_them() -> None:
    store = FakeStore()
    first, run = create(store)
    second, _ = create(store)
    written = [runs.append(run.id, {"type": "step_started"})["number"] for runs in (first, second, second, first)]
    assert written == [1, 2, 3, 4]
    for runs in (first, second, RunStore(store)):
        assert [event["number"] for event in runs.events(run.id)] == [1, 2, 3, 4]
        assert [event["number"] for event in runs.events(run.id, 3)] == [3, 4]
        assert runs.events(run.id, 9) == []


def test_a_long_run_is_not_read_again_for_every_event() -> None:
    """Of n appended events each asks for the next number once: n reads, not n squared."""
    store = CountingStore()
    runs, run = create(store)
    store.opened = store.listed = 0
    for _ in range(100):
        runs.append(run.id, {"type": "step_started"})
        assert runs.events(run.id, 100) == runs.events(run.id)[99:]
    assert store.listed == 1
    assert store.opened <= 3 * 100 + 1


def test_an_event_that_is_damaged_is_left_out_and_the_next_ones_count(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    runs, run = create(store)
    for kind in ("run_started", "step_started", "run_succeeded"):
        runs.append(run.id, {"type": kind})
    store.truncate(f"runs/{run.id}/events/00000002.json", 9)
    again = RunStore(store)
    assert [event["type"] for event in again.events(run.id)] == ["run_started", "run_succeeded"]
    assert run_state(again.events(run.id)) == "succeeded"
    assert again.append(run.id, {"type": "run_started"})["number"] == 4
    assert "00000002.json" in caplog.text


def test_a_run_made_anew_after_it_was_deleted_begins_at_one() -> None:
    store = FakeStore()
    runs, run = create(store)
    runs.append(run.id, {"type": "run_started"})
    for path in [path for path in store.objects if path.startswith(f"runs/{run.id}/")]:
        store.delete(path)
    runs.create(run.spec, RESOLVED)
    assert runs.events(run.id) == []
    assert runs.append(run.id, {"type": "run_started"})["number"] == 1


def test_every_truncation_and_flipped_digit_of_a_runs_record_is_found_and_its_own_spec_writes_it_anew() -> None:
    store = FakeStore()
    _, run = create(store)
    _, other = create(store, "other")
    path = f"runs/{run.id}/RUN.json"
    intact = store.objects[path]
    changed = [intact[:size] for size in range(0, len(intact) - 1, 7)]
    changed += [intact.replace(b'"theta":50.0', b'"theta":51.0'), intact.replace(b'"seed":0', b'"seed":1'), b"[]", b"\xff"]
    for data in changed:
        assert data != intact
        store.objects[path] = data
        runs = RunStore(store)
        with pytest.raises(errors.Corrupt, match=path):
            runs.load(run.id)
        with pytest.raises(errors.Corrupt, match=path):
            runs.find("one")
        assert [one.id for one in runs.all()] == [other.id]
        assert runs.create(run.spec, RESOLVED).spec == run.spec


def test_a_models_record_that_is_damaged_is_named_and_registering_it_writes_it_anew() -> None:
    store = FakeStore()
    registry = Registry(store)
    model = Model("a-warm-00000000", "warm", "a-1", 1, "base", "artifact:x", "0" * 64)
    assert registry.register(model)
    store.truncate("models/a-warm-00000000.json", 20)
    with pytest.raises(errors.Corrupt, match=r"models/a-warm-00000000\.json"):
        registry.models()
    assert not registry.register(model)
    assert registry.models() == [model]
