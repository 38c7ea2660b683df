"""The router and its engines: load, failure, restart, adapters that come and go, a store that is away; nothing is lost or doubled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.grpc_server import Service
from semievol.common.registry import Registry
from semievol.common.stores.fake import FakeStore
from semievol.common.stores.local import LocalStore
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.server import service as generation_service
from semievol.generation.settings import GenerationSettings
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.ports import NEVER, Cancel, ChatDelta, Generation, ObjectInfo, Prompt, Sampling

from tests.grpc.routing import (
    BASE,
    RouterUnderTest,
    engine_at_work,
    engine_process,
    fake_engine,
    prompt,
    register,
    router,
    soon,
    weights_script,
)
from tests.grpc.stoppable import StoppableWork
from tests.running import running


class WatchedEngine(FakeEngine):
    """Counts its calls; `held`: they wait until it is set; `breaks_after`: pieces of a reply after which it is gone."""

    def __init__(self, store: FakeStore, cache: Path) -> None:
        super().__init__(weights_script, artifacts=Artifacts(store), cache=cache, base=BASE)
        self.calls: list[str] = []
        self.unloaded: list[str] = []
        self.held = threading.Event()
        self.held.set()
        self.breaks_after: int | None = None

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        if prompts[0].id != "ready":
            self.calls.append(model)
            assert self.held.wait(20)
        return super().generate(model, prompts, sampling)

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        self.calls.append(model)
        for number, delta in enumerate(super().chat(model, prompt, sampling)):
            if number == self.breaks_after:
                raise errors.Unavailable("It broke.")
            yield delta

    def unload_adapter(self, name: str) -> None:
        self.unloaded.append(name)
        super().unload_adapter(name)


class StoppableEngine(StoppableWork, FakeEngine):
    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        if prompts[0].id != "ready":
            self.work(cancel)
        return super().generate(model, prompts, sampling)


class AwayStore(FakeStore):
    """Can be away."""

    away = False

    def list(self, prefix: str) -> list[ObjectInfo]:
        if self.away:
            raise errors.Unavailable("The store is away.")
        return super().list(prefix)


@pytest.fixture
def store() -> AwayStore:
    store = AwayStore()
    register(store, "old")
    return store


def status_of(call: grpc.RpcError) -> tuple[grpc.StatusCode, str, float]:
    """(code, message, seconds after which to come back, 0 if it does not say)."""
    status = rpc_status.from_call(call)  # type: ignore[arg-type]
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    seconds = next((retry.retry_delay.ToMilliseconds() / 1000 for detail in status.details if detail.Unpack(retry)), 0.0)
    return call.code(), status.message, seconds  # type: ignore[attr-defined]


def test_a_call_goes_where_the_fewest_are_at_work(store: AwayStore, tmp_path: Path) -> None:
    """Two calls on an engine each that does one at a time; neither is let go before both have begun."""
    engines = [WatchedEngine(store, tmp_path / str(number)) for number in range(2)]
    for engine in engines:
        engine.held.clear()
    with (
        engine_at_work(engines[0]) as one,
        engine_at_work(engines[1]) as two,
        router(store, [one, two]) as served,
        ThreadPoolExecutor(2) as pool,
    ):
        replies = [pool.submit(served.who, "old") for _ in range(2)]
        assert soon(lambda: [len(engine.calls) for engine in engines] == [1, 1])
        for engine in engines:
            engine.held.set()
        assert [reply.result(20) for reply in replies] == ["old", "old"]


def test_an_engine_that_is_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """240 calls of three prompts by eight clients that retry nothing; one of two engines is killed after forty."""
    store = LocalStore(tmp_path / "store")
    register(store, "old")
    Registry(store).promote("old", "prod")
    with (
        engine_process(tmp_path / "store", tmp_path / "1") as one,
        engine_process(tmp_path / "store", tmp_path / "2") as two,
        router(store, [one.address, two.address]) as served,
    ):
        served.who("prod")
        done = threading.Semaphore(0)

        def call(number: int) -> list[str]:
            reply = served.generate("prod", *(f"{number}-{part}" for part in range(3)))
            done.release()
            assert reply.model.name == "old"
            texts = [generation.completions[0].text for generation in reply.generations]
            return [text.rpartition(" ")[2] for text in texts]

        with ThreadPoolExecutor(8) as clients:
            work = [clients.submit(call, number) for number in range(240)]
            for _ in range(40):
                done.acquire()
            one.kill()
            answers = Counter(answer for reply in work for answer in reply.result(60))
    wanted = {f"{number}-{part}" for number in range(240) for part in range(3)}
    lost, doubled = len(wanted - answers.keys()), sum(answers.values()) - len(answers)
    print(f"lost {lost}, doubled {doubled} of {len(wanted)}")
    assert (lost, doubled) == (0, 0)


def test_an_engine_that_is_started_again_gets_its_adapters_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    register(store, "old")
    with engine_process(tmp_path / "store", tmp_path / "1") as engine, router(store, [engine.address]) as served:
        assert served.who("old") == "old"
        engine.kill()
        with pytest.raises(grpc.RpcError) as caught:
            served.generate("old")
        code, message, seconds = status_of(caught.value)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert engine.address in message
        assert seconds > 0
        assert soon(lambda: not served.serving())
        engine.start()
        assert soon(served.serving)
        assert served.who("old") == "old"


def test_an_engine_that_forgot_an_adapter_gets_it_again_at_once(store: AwayStore, tmp_path: Path) -> None:
    engine = WatchedEngine(store, tmp_path)
    with engine_at_work(engine) as address, router(store, [address], check_every_s=3600.0) as served:
        assert served.who("old") == "old"
        (_, adapter) = engine.models()
        engine.unload_adapter(adapter.name)
        assert served.who("old") == "old"
        engine.unload_adapter(adapter.name)
        assert served.chat("old")[-1].model.name == "old"
        assert len(engine.calls) == 3


def test_an_engine_out_of_order_is_asked_last(store: AwayStore, tmp_path: Path) -> None:
    """It looks well, and refuses every call: of ten calls within the time that it is avoided, only the first is tried on it."""
    broken, sound = fake_engine(store, tmp_path / "1", fails_after=1), WatchedEngine(store, tmp_path / "2")
    with engine_at_work(broken) as one, engine_at_work(sound) as two, router(store, [one, two], avoid_s=3600.0) as served:
        for _ in range(10):
            assert served.who("old") == "old"
    assert len(sound.calls) == 10
    with engine_at_work(fake_engine(store, tmp_path / "3", fails_after=1)) as one, router(store, [one]) as served:
        for _ in range(2):  # the last one is asked whatever it did
            with pytest.raises(grpc.RpcError) as caught:
                served.generate("old")
            code, message, seconds = status_of(caught.value)
            assert (code, seconds > 0) == (grpc.StatusCode.UNAVAILABLE, True)
            assert f"{one}: The fake engine is out of order" in message


def test_an_engine_that_says_it_does_not_work_is_not_asked(store: AwayStore, tmp_path: Path) -> None:
    """Its port answers, its model is dead: health says so (R12)."""
    ill, sound = WatchedEngine(store, tmp_path / "1"), WatchedEngine(store, tmp_path / "2")
    well = threading.Event()
    plain = generation_service(GenerationSettings(), ill)

    async def check() -> None:
        if not well.is_set():
            raise errors.Unavailable("The model is dead.")

    sick = Service(plain.name, plain.register, plain.probe, plain.close, check, 0.02)
    with running(sick) as one, engine_at_work(sound) as two, router(store, [one, two]) as served:
        assert soon(lambda: calls_of_ten(served, ill) == 0)
        assert calls_of_ten(served, ill) == 0
        well.set()
        assert soon(lambda: calls_of_ten(served, ill) > 0)


def calls_of_ten(served: RouterUnderTest, engine: WatchedEngine) -> int:
    """How many of ten calls, one after the other, reach this engine: all or none, since of idle ones the first is asked."""
    before = len(engine.calls)
    for _ in range(10):
        assert served.who("base") == "base"
    return len(engine.calls) - before


def test_health_follows_the_engines(store: AwayStore, tmp_path: Path) -> None:
    with engine_at_work(fake_engine(store, tmp_path / "1")) as one:
        with engine_at_work(fake_engine(store, tmp_path / "2")) as two, router(store, [one, two]) as served:
            assert served.serving()
        with router(store, [one, two]) as served:  # the second is gone
            assert served.serving()
            assert served.who("old") == "old"


def test_a_stream_goes_elsewhere_only_before_its_first_piece(store: AwayStore, tmp_path: Path) -> None:
    first, second = WatchedEngine(store, tmp_path / "1"), WatchedEngine(store, tmp_path / "2")
    first.breaks_after = 0
    with engine_at_work(first) as one, engine_at_work(second) as two, router(store, [one, two]) as served:
        whole = "".join(piece.text for piece in served.chat("old"))
        assert whole.endswith("heard Hello")
        assert (len(first.calls), len(second.calls)) == (1, 1)
        first.breaks_after = second.breaks_after = 2
        with pytest.raises(grpc.RpcError) as caught:
            served.chat("old")
        assert status_of(caught.value)[1].startswith("The reply broke off, ask again")


def test_a_full_queue_is_tried_elsewhere_and_then_passed_on_with_its_hint(store: AwayStore, tmp_path: Path) -> None:
    engine = WatchedEngine(store, tmp_path / "1")
    engine.held.clear()
    full = generation_service(GenerationSettings(max_waiting_count=0), engine)
    with running(full) as one, ThreadPoolExecutor(1) as pool, router(store, [one]) as served:
        waiting = pool.submit(served.who, "base")
        assert soon(lambda: len(engine.calls) == 1)
        with pytest.raises(grpc.RpcError) as caught:
            served.generate("base")
        code, _, seconds = status_of(caught.value)
        assert (code, seconds > 0) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        engine.held.set()
        assert waiting.result(20) == "base"


def test_a_client_that_goes_away_stops_the_engine(store: AwayStore, tmp_path: Path) -> None:
    engine = StoppableEngine()
    with engine_at_work(engine) as address, router(store, [address]) as served:
        call = served.stub.Generate.future(pb.GenerateRequest(prompts=[prompt("Hello")]), timeout=30)
        assert engine.started.wait(10)
        call.cancel()
        assert engine.cancelled.wait(10)


def test_adapters_that_nobody_uses_go_once_there_are_too_many(store: AwayStore, tmp_path: Path) -> None:
    engine = WatchedEngine(store, tmp_path)
    names = [f"model-{number}" for number in range(5)]
    for name in names:
        register(store, name)
    Registry(store).promote("model-0", "prod")
    with engine_at_work(engine) as address, router(store, [address], max_adapters=2, recent_s=0.0) as served:
        for name in names:
            assert served.who(name) == name
        assert soon(lambda: len(engine.models()) == 1 + 2)
        assert served.who("prod") == "model-0"
        assert {served.who(name) for name in names} == set(names)  # what went comes again
        assert served.who("prod") == "model-0"
        kept = {one.adapter for one in served.stub.ListModels(pb.ListModelsRequest()).models if one.alias}
        unloaded = set(engine.unloaded)
        assert len(unloaded) >= 3
        assert kept <= {model.adapter for model in engine.models()}


def test_adapters_that_others_loaded_and_those_of_recent_calls_stay(store: AwayStore, tmp_path: Path) -> None:
    engine = WatchedEngine(store, tmp_path)
    others = register(store, "others")
    engine.load_adapter("adapter-of-a-run", others.uri)
    register(store, "new")
    with engine_at_work(engine) as address, router(store, [address], max_adapters=1) as served:
        assert (served.who("old"), served.who("new"), served.who("old")) == ("old", "new", "old")
        assert engine.unloaded == []


def test_a_store_that_is_away_changes_nothing_for_what_is_known(store: AwayStore, tmp_path: Path) -> None:
    Registry(store).promote("old", "prod")
    with engine_at_work(fake_engine(store, tmp_path)) as address, router(store, [address], cache_s=0.0) as served:
        assert served.who("prod") == "old"
        store.away = True
        for _ in range(20):
            assert served.who("prod") == "old"
        store.away = False
        register(store, "new")
        Registry(store).promote("new", "prod")
        assert soon(lambda: served.who("prod") == "new")


def test_a_router_that_never_saw_the_store_serves_the_base(store: AwayStore, tmp_path: Path) -> None:
    store.away = True
    with engine_at_work(fake_engine(store, tmp_path)) as address, router(store, [address]) as served:
        assert served.who("base") == "base"
        with pytest.raises(grpc.RpcError) as caught:
            served.generate("prod")
        code, message, seconds = status_of(caught.value)
        assert (code, seconds > 0) == (grpc.StatusCode.UNAVAILABLE, True)
        assert "artifact store cannot be read" in message
