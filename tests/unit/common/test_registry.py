"""Models and aliases in the store: canaries, what ends them, and records that are older than the program."""

from __future__ import annotations

import json

import pytest
from semievol.common import errors
from semievol.common.keys import canonical_json
from semievol.common.registry import Alias, Model, Registry, replayed
from semievol.common.stores.fake import FakeStore
from semievol.controller.cleaning import unregister_models


def model(name: str, run: str = "run-1") -> Model:
    return Model(name, "evolved", run, 1, "base", f"artifact:{'0' * 64}", "ab" * 32)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def registry(store: FakeStore) -> Registry:
    registry = Registry(store)
    for name in "abc":
        registry.register(model(name))
    return registry


def test_a_record_without_entropies_still_loads_and_one_with_them_comes_back_as_it_was(
    store: FakeStore, registry: Registry
) -> None:
    old = {
        "name": "old",
        "role": "warm",
        "run": "r",
        "iteration": 1,
        "base": "b",
        "uri": "artifact:x",
        "sha256": "s",
        "accuracy": 0.5,
    }
    store.create("models/old.json", canonical_json(old))
    store.create("models/newer.json", canonical_json({**old, "name": "newer", "what_a_later_version_knows": 1}))
    full = Model("full", "evolved", "r", 1, "b", "artifact:x", "s", None, tuple(k / 100 for k in range(101)))
    registry.register(full)
    found = {one.name: one for one in registry.models()}
    assert found["old"].selected_entropies == ()
    assert found["newer"].accuracy == 0.5
    assert found["full"] == full
    assert len(json.loads(store.objects["models/full.json"])["selected_entropies"]) == 101


def test_a_canary_shares_an_alias_and_promoting_it_fully_ends_it(registry: Registry) -> None:
    registry.promote("a", "prod")
    assert registry.promote("b", "prod", 10) == Alias("prod", "a", (), "b", 10)
    assert registry.promote("b", "prod", 25).weight == 25
    assert registry.promote("b", "prod") == Alias("prod", "b", ("a",))


def test_rolling_back_takes_the_canary_first_and_then_the_model(registry: Registry) -> None:
    registry.promote("a", "prod")
    registry.promote("b", "prod")
    registry.promote("c", "prod", 50)
    assert registry.rollback("prod") == Alias("prod", "b", ("a",))
    assert registry.rollback("prod") == Alias("prod", "a")
    with pytest.raises(errors.Conflict, match="nothing to go back to"):
        registry.rollback("prod")


def test_promoting_the_main_model_fully_ends_the_canary_and_leaves_the_history(registry: Registry) -> None:
    registry.promote("a", "prod")
    registry.promote("b", "prod")
    registry.promote("c", "prod", 50)
    assert registry.promote("b", "prod") == Alias("prod", "b", ("a",))


def test_what_is_so_already_is_not_recorded_again(store: FakeStore, registry: Registry) -> None:
    for _ in range(2):
        registry.promote("a", "prod")
        registry.promote("b", "prod", 10)
    assert [path for path in store.objects if path.startswith("aliases/")] == [
        "aliases/prod/00000001.json",
        "aliases/prod/00000002.json",
        "aliases/prod/00000003.json",  # a again, which ended the canary
        "aliases/prod/00000004.json",
    ]
    before = len(store.objects)
    registry.promote("b", "prod", 10)
    assert len(store.objects) == before


def test_a_canary_needs_another_model_and_a_weight_is_a_percentage(registry: Registry) -> None:
    with pytest.raises(errors.Conflict, match="points at nothing yet"):
        registry.promote("a", "prod", 10)
    registry.promote("a", "prod")
    with pytest.raises(errors.Conflict, match="points at a already"):
        registry.promote("a", "prod", 10)
    for weight in (-1, 0, 101):
        with pytest.raises(errors.InvalidInput, match="from 1 to 100") as caught:
            registry.promote("b", "prod", weight)
        assert caught.value.field == "weight"


def test_records_from_before_there_were_canaries_mean_what_they_meant() -> None:
    """a, b, a promoted and one rolled back: b, which was there before, then a."""
    changes = [{"change": "promote", "model": name} for name in "aba"] + [{"change": "rollback"}]
    assert replayed("prod", changes) == Alias("prod", "b", ("a",))
    assert replayed("prod", []) is None


def test_a_canarys_model_is_not_forgotten_with_its_run(registry: Registry) -> None:
    registry.register(model("d", "run-2"))
    registry.register(model("e", "run-2"))
    registry.promote("a", "prod")
    registry.promote("d", "prod", 1)
    assert unregister_models(registry, "run-2") == ["e"]


@pytest.mark.parametrize("name", ["base", "b"])
def test_no_alias_is_called_like_what_comes_before_it(registry: Registry, name: str) -> None:
    with pytest.raises(errors.InvalidInput, match="choose another"):
        registry.promote("a", name)
    assert registry.aliases() == []
