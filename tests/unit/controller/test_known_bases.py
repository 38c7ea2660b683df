"""What a run's model is, found out while perhaps no engine is at work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.stores.local import LocalStore
from semievol.controller.known import BaseOfRuns, KnownBases
from semievol.launchers.fake_engines import FakeEngines
from semievol.ports import BASE_MODEL, ModelInfo

BASE = ModelInfo(BASE_MODEL, "m", "b" * 64, max_model_tokens=2048, engine="transformers/float32")
OTHER = dataclasses.replace(BASE, engine="transformers/bfloat16")


def away() -> ModelInfo:
    raise errors.Unavailable("The serving engines have yielded.")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def base_of_runs(store: LocalStore, engines: FakeEngines, serving: object = away, wait_s: float = 5.0) -> BaseOfRuns:
    return BaseOfRuns(KnownBases(store, "s"), serving, engines, wait_s=wait_s, poll_s=0.0)  # type: ignore[arg-type]


def test_serving_engines_are_asked_first_and_remembered(store: LocalStore) -> None:
    engines = FakeEngines()
    assert base_of_runs(store, engines, lambda: BASE)("m") == BASE
    assert base_of_runs(store, engines)("m") == BASE
    assert engines.log == []


def test_without_serving_an_engine_is_started_once_and_let_go(store: LocalStore) -> None:
    engines = FakeEngines(base=BASE, looks=3)
    ask = base_of_runs(store, engines)
    assert [ask("m"), ask("m")] == [BASE, BASE]
    assert engines.log == ["start base", "end base"]


def test_an_engine_that_does_not_come_up_says_what_it_waits_for_and_is_let_go(store: LocalStore) -> None:
    engines = FakeEngines(gpus=0)
    with pytest.raises(errors.Unavailable, match="1 Insufficient nvidia"):
        base_of_runs(store, engines, wait_s=0.0)("m")
    assert engines.there == []


def test_what_an_engine_of_a_run_says_counts_more_than_hearsay(store: LocalStore) -> None:
    known = KnownBases(store, "s")
    known.learn(BASE, hearsay=True)
    known.learn(OTHER)
    known.learn(BASE, hearsay=True)
    assert known.find("m") == OTHER


def test_other_settings_and_other_models_are_not_known(store: LocalStore) -> None:
    KnownBases(store, "s").learn(BASE)
    assert KnownBases(store, "t").find("m") is None
    assert KnownBases(store, "s").find("n") is None


def test_without_settings_nothing_is_kept(store: LocalStore) -> None:
    KnownBases(store, "").learn(BASE)
    assert KnownBases(store, "").find("m") is None
    assert store.list("") == []


def test_a_damaged_record_is_asked_for_anew(store: LocalStore) -> None:
    known = KnownBases(store, "s")
    known.learn(BASE)
    (record,) = store.list("engines/")
    store.put(record.path, b"{")
    assert known.find("m") is None
    known.learn(BASE)
    assert known.find("m") == BASE
