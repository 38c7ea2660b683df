"""What a router makes of a name: aliases, weights, stickiness, and a store that changes, is damaged or goes away."""

from __future__ import annotations

import asyncio
import logging
from typing import BinaryIO

import pytest
from semievol.common import errors
from semievol.common.keys import adapter_name
from semievol.common.registry import Alias, Model, Registry
from semievol.common.stores.fake import FakeStore
from semievol.generation.router.catalog import Catalog, CatalogReader, CatalogView, Wanted, gets_canary
from semievol.ports import ObjectInfo

OLD = Model("old", "evolved", "r-1", 1, "base-model", "artifact:1", "11" * 32)
NEW = Model("new", "evolved", "r-2", 1, "base-model", "artifact:2", "22" * 32)


def catalog(*aliases: Alias) -> Catalog:
    return Catalog({"old": OLD, "new": NEW}, {alias.name: alias for alias in aliases})


class CountingStore(FakeStore):
    """Counts reads, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.listed = 0
        self.away = False

    def open(self, path: str) -> BinaryIO:
        self.opened += 1
        return super().open(path)

    def list(self, prefix: str) -> list[ObjectInfo]:
        if self.away:
            raise errors.Unavailable("The store is on holiday.")
        self.listed += 1
        return super().list(prefix)


def test_a_name_is_an_alias_a_model_or_the_base() -> None:
    known = catalog(Alias("prod", "new"))
    assert known.resolve("prod", "") == Wanted(NEW, "prod", "base-model")
    assert known.resolve("old", "") == Wanted(OLD, "", "base-model")
    assert known.resolve("base", "") == Wanted()
    assert known.resolve("else", "") is None
    assert known.resolve("prod", "") != known.resolve("new", "")  # the alias is named


def test_a_models_own_name_is_that_model_whatever_aliases_say() -> None:
    assert catalog(Alias("old", "new")).resolve("old", "") == Wanted(OLD, "", "base-model")


def test_no_name_is_the_default_alias_if_there_is_one_else_the_base() -> None:
    known = catalog(Alias("prod", "new"))
    assert known.resolve("", "", "prod") == Wanted(NEW, "prod", "base-model")
    assert known.resolve("", "", "other") == Wanted()
    assert Catalog().resolve("", "", "prod") == Wanted()


def test_engines_know_weights_by_a_name_that_carries_their_hash() -> None:
    assert Wanted(NEW).adapter == adapter_name(NEW.sha256)
    assert Wanted().adapter == "base"


def test_an_alias_of_a_model_that_is_gone_says_so_and_a_canary_that_is_gone_gets_nothing() -> None:
    with pytest.raises(errors.Conflict, match="registered no more"):
        catalog(Alias("prod", "gone")).resolve("prod", "")
    known = catalog(Alias("prod", "old", (), "gone", 99))
    assert {known.resolve("prod", str(key)) for key in range(50)} == {Wanted(OLD, "prod", "base-model")}


def test_a_canary_of_ten_percent_gets_ten_percent_of_the_keys() -> None:
    """Of 10,000 keys at 10 %, 1,000 +- 5 standard deviations of sqrt(10,000 * 0.1 * 0.9) = 30 each."""
    alias = Alias("prod", "old", (), "new", 10)
    count = sum(gets_canary(alias, f"user-{number}") for number in range(10_000))
    assert abs(count - 1000) <= 150
    drawn = sum(gets_canary(alias, "") for _ in range(10_000))
    assert abs(drawn - 1000) <= 150


def test_a_key_stays_where_it_is_and_a_larger_weight_only_adds_keys() -> None:
    keys = [f"user-{number}" for number in range(2000)]
    before: set[str] = set()
    for weight in (1, 10, 50, 99):
        alias = Alias("prod", "old", (), "new", weight)
        now = {key for key in keys if gets_canary(alias, key)}
        assert now == {key for key in keys if gets_canary(alias, key)}
        assert before <= now
        before = now
    other = Alias("prod", "old", (), "newer", 50)
    assert {key for key in keys if gets_canary(other, key)} != {
        key for key in keys if gets_canary(Alias("prod", "old", (), "new", 50), key)
    }


def test_records_are_read_once() -> None:
    store = CountingStore()
    registry = Registry(store)
    for model in (OLD, NEW):
        registry.register(model)
    registry.promote("old", "prod")
    reader = CatalogReader(lambda: store)
    assert reader.read() == catalog(Alias("prod", "old"))
    store.opened = 0
    for _ in range(10):
        reader.read()
    assert store.opened == 0
    registry.promote("new", "prod", 30)
    store.opened = 0
    assert reader.read() == catalog(Alias("prod", "old", (), "new", 30))
    assert store.opened == 1


def test_what_is_damaged_is_left_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    registry = Registry(store)
    for model in (OLD, NEW):
        registry.register(model)
    registry.promote("old", "prod")
    registry.promote("new", "prod")
    store.truncate("models/new.json", 9)
    store.truncate("aliases/prod/00000002.json", 9)
    store.objects["aliases/odd/00000001.json"] = b"{}"
    reader = CatalogReader(lambda: store)
    for _ in range(3):
        assert reader.read() == Catalog({"old": OLD}, {"prod": Alias("prod", "old")})
    assert caplog.text.count("models/new.json cannot be read") == 1
    assert caplog.text.count("aliases/odd cannot be read") == 1
    assert not registry.register(NEW)  # writes it anew
    assert "new" in reader.read().models


async def test_a_store_that_is_away_leaves_what_was_known_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    store = CountingStore()
    Registry(store).register(OLD)
    view = CatalogView(CatalogReader(lambda: store).read, cache_s=0.0)
    assert (await view.current()).models == {"old": OLD}
    store.away = True
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            assert (await view.current()).models == {"old": OLD}
            await asyncio.sleep(0)
        assert caplog.text.count("cannot be read") == 1
        store.away = False
        Registry(store).register(NEW)
        for _ in range(500):  # a store that was away is tried again after a second
            if "new" in (await view.current()).models:
                break
            await asyncio.sleep(0.02)
    assert caplog.text.count("can be read again") == 1
    await view.close()


async def test_a_store_that_was_never_there_says_when_to_come_back() -> None:
    store = CountingStore()
    store.away = True
    view = CatalogView(CatalogReader(lambda: store).read, cache_s=1.0)
    with pytest.raises(errors.Unavailable, match="store cannot be read") as caught:
        await view.current()
    assert caught.value.retry_after_s > 0
    await view.close()


async def test_many_calls_at_once_read_the_store_once() -> None:
    store = CountingStore()
    view = CatalogView(CatalogReader(lambda: store).read, cache_s=60.0)
    await asyncio.gather(*(view.current() for _ in range(50)))
    assert store.listed == 2  # models and aliases
    await view.close()


async def test_a_reading_that_began_before_a_change_does_not_count_for_calls_that_come_after_it() -> None:
    """The first reading sees nothing and is held up; what is registered meanwhile is seen by a call that begins afterwards."""
    store = FakeStore()
    held, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    reader = CatalogReader(lambda: store)
    first = True

    def read() -> Catalog:
        nonlocal first
        found = reader.read()
        if first:
            first = False
            loop.call_soon_threadsafe(held.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        return found

    view = CatalogView(read, cache_s=0.0)
    early = asyncio.create_task(view.current())
    await held.wait()
    Registry(store).register(NEW)
    late = asyncio.create_task(view.current())
    await asyncio.sleep(0)
    go_on.set()
    await early
    assert "new" in (await late).models
    await view.close()
