"""The router as its clients see it: which model a name means, who answered, and how sure it was."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from semievol.algorithm.statistics import percent_at_least, quantile_grid
from semievol.algorithm.types import Message
from semievol.client.router import RouterClient
from semievol.common import errors
from semievol.common.registry import Registry
from semievol.common.stores.fake import FakeStore
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.ports import Prompt, Sampling

from tests.grpc.routing import BASE, RouterUnderTest, engine_at_work, fake_engine, prompt, register, router, soon

GRID = quantile_grid([k / 100 for k in range(300)])  # evenly from 0 to 3 nats, as the fake's log-probabilities are


@pytest.fixture
def store() -> FakeStore:
    store = FakeStore()
    for name in ("old", "new"):
        register(store, name, grid=GRID)
    return store


@pytest.fixture
def served(store: FakeStore, tmp_path: Path) -> Iterator[RouterUnderTest]:
    with engine_at_work(fake_engine(store, tmp_path)) as engine, router(store, [engine]) as served:
        yield served


def refused(call: grpc.RpcError, code: grpc.StatusCode, *words: str) -> None:
    assert call.code() is code  # type: ignore[attr-defined]
    for word in words:
        assert word in call.details()  # type: ignore[attr-defined]


def test_an_alias_is_answered_by_its_model_and_the_reply_says_by_which(store: FakeStore, served: RouterUnderTest) -> None:
    model = register(store, "old")
    Registry(store).promote("old", "prod")
    reply = served.generate("prod", "Hello")
    assert reply.generations[0].completions[0].text.startswith("adapter-")
    identity = reply.model
    assert (identity.name, identity.alias, identity.base) == ("old", "prod", BASE)
    assert (identity.adapter, identity.adapter_sha256) == (model.uri, model.sha256)
    pieces = served.chat("prod")
    assert "".join(piece.text for piece in pieces) == reply.generations[0].completions[0].text
    assert {piece.model.name for piece in pieces} == {"old"}
    items = [pb.ScoreItem(id="a", messages=prompt("Hello").messages, response="Answer: A")]
    scored = served.stub.Score(pb.ScoreRequest(model="prod", items=items))
    assert scored.model.alias == "prod"
    assert len(scored.results[0].tokens) == 2


@pytest.mark.parametrize(("name", "who"), [("new", "new"), ("base", "base"), (BASE, "base"), ("", "base")])
def test_a_model_the_base_and_nothing_are_names_too(served: RouterUnderTest, name: str, who: str) -> None:
    reply = served.generate(name)
    assert (reply.model.name, reply.model.alias) == (who, "")
    assert bool(reply.model.adapter) == (who == "new")


def test_a_call_that_names_nothing_gets_the_default_alias(store: FakeStore, served: RouterUnderTest) -> None:
    assert served.who("") == "base"
    Registry(store).promote("old", "production")
    assert soon(lambda: served.who("") == "old")


def test_a_name_that_means_nothing_is_refused_with_those_that_do(store: FakeStore, served: RouterUnderTest) -> None:
    Registry(store).promote("old", "prod")
    with pytest.raises(grpc.RpcError) as caught:
        served.generate("prdo")
    refused(caught.value, grpc.StatusCode.NOT_FOUND, "'prdo'", "prod, new, old, base")


def test_what_was_made_a_moment_ago_is_found_however_old_the_cache_may_be(store: FakeStore, tmp_path: Path) -> None:
    with engine_at_work(fake_engine(store, tmp_path)) as engine, router(store, [engine], cache_s=3600.0) as served:
        assert served.who("old") == "old"
        register(store, "newest")
        assert served.who("newest") == "newest"


def test_confidence_is_the_percentage_of_pseudo_labels_that_were_no_surer(served: RouterUnderTest) -> None:
    """The fake's log-probabilities are even in [-3, 0), so that means differ; each is looked up in the model's grid by hand."""
    reply = served.generate("old", "one", "two", "three")
    for generation in reply.generations:
        (completion,) = generation.completions
        mean = -sum(token.logprob for token in completion.tokens) / len(completion.tokens)
        assert completion.mean_nll == pytest.approx(mean, abs=1e-12)
        assert completion.confidence == percent_at_least(GRID, completion.mean_nll)
        assert completion.confidence == pytest.approx(100 * (1 - mean / 3), abs=1)
    *before, last = served.chat("old", "one")
    assert not any(piece.HasField("mean_nll") or piece.HasField("confidence") for piece in before)
    assert last.mean_nll == reply.generations[0].completions[0].mean_nll
    assert last.confidence == reply.generations[0].completions[0].confidence


def test_what_learned_from_no_pseudo_labels_has_no_confidence(store: FakeStore, served: RouterUnderTest) -> None:
    register(store, "warm")
    for name in ("warm", "base"):
        (completion,) = served.generate(name).generations[0].completions
        assert completion.HasField("mean_nll")
        assert not completion.HasField("confidence")


def test_all_that_can_be_named_is_listed(store: FakeStore, served: RouterUnderTest) -> None:
    register(store, "foreign", base="another")
    Registry(store).promote("new", "prod")
    served.who("new")

    def listed() -> list[tuple[str, str]]:
        return [(one.name, one.alias) for one in served.stub.ListModels(pb.ListModelsRequest()).models]

    assert soon(lambda: listed() == [("base", ""), ("new", ""), ("old", ""), ("new", "prod")])


def test_adapters_are_not_the_callers_business(served: RouterUnderTest) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.stub.LoadAdapter(pb.LoadAdapterRequest(name="a", uri="artifact:b"))
    refused(caught.value, grpc.StatusCode.UNIMPLEMENTED, "name a registered model or an alias")
    with pytest.raises(grpc.RpcError) as caught:
        served.stub.UnloadAdapter(pb.UnloadAdapterRequest(name="a"))
    refused(caught.value, grpc.StatusCode.UNIMPLEMENTED, "name a registered model or an alias")


def test_a_canary_gets_its_share_and_a_key_stays(store: FakeStore, served: RouterUnderTest) -> None:
    """Of 300 keys at 30 %, 90 +- 5 standard deviations of sqrt(300 * 0.3 * 0.7) = 8."""
    Registry(store).promote("old", "prod")
    Registry(store).promote("new", "prod", 30)
    keys = [f"user-{number}" for number in range(300)]
    first = {key: served.who("prod", key) for key in keys}
    assert abs(Counter(first.values())["new"] - 90) <= 40
    assert {key: served.who("prod", key) for key in keys} == first


def test_promoting_back_and_forth_drops_no_call_and_counts_at_once(store: FakeStore, served: RouterUnderTest) -> None:
    """Six clients ask without a pause, each reply by one of the two. Calls that begin after a promotion and the cache's time get the new one."""
    registry = Registry(store)
    registry.promote("old", "prod")
    answers: list[str] = []
    failures: list[BaseException] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                answers.append(served.who("prod"))
            except BaseException as error:
                failures.append(error)

    clients = [threading.Thread(target=client) for _ in range(6)]
    for one in clients:
        one.start()
    try:
        for number in range(10):
            name = ("new", "old")[number % 2]
            registry.promote(name, "prod")
            over.wait(0.15)  # longer than the cache's time
            assert served.who("prod") == name
            assert {served.who("prod") for _ in range(5)} == {name}
    finally:
        over.set()
        for one in clients:
            one.join()
    assert failures == []
    assert set(answers) == {"old", "new"}


def test_a_model_whose_artifact_is_not_what_was_registered_is_not_served(store: FakeStore, served: RouterUnderTest) -> None:
    other = register(store, "other")
    record = store.objects["models/other.json"].replace(other.uri.encode(), register(store, "old").uri.encode())
    store.objects["models/other.json"] = record
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as caught:
            served.generate("other")
        refused(caught.value, grpc.StatusCode.DATA_LOSS, "is not the adapter that the model other was registered with")
        time.sleep(0.2)  # the engine is looked at, and lists the adapter under that name


def test_a_model_of_another_base_is_refused_with_the_bases_that_are_served(store: FakeStore, served: RouterUnderTest) -> None:
    register(store, "foreign", base="another")
    with pytest.raises(grpc.RpcError) as caught:
        served.generate("foreign")
    refused(caught.value, grpc.StatusCode.FAILED_PRECONDITION, "made from another", f"serve {BASE}")


def test_engines_of_two_bases_serve_the_models_of_each(store: FakeStore, tmp_path: Path) -> None:
    register(store, "foreign", base="another")
    with (
        engine_at_work(fake_engine(store, tmp_path / "1")) as one,
        engine_at_work(fake_engine(store, tmp_path / "2", base="another")) as two,
        router(store, [one, two]) as served,
    ):
        assert served.generate("foreign").model.base == "another"
        assert served.generate("old").model.base == BASE
        assert served.generate("another").model.base == "another"
        with pytest.raises(grpc.RpcError) as caught:
            served.generate("base")
        refused(caught.value, grpc.StatusCode.INVALID_ARGUMENT, f"another, {BASE}")


def test_the_python_client_streams_and_says_who_answered(store: FakeStore, served: RouterUnderTest) -> None:
    Registry(store).promote("old", "prod")
    client = RouterClient(served.address)
    asked = Prompt("p", (Message("user", "Hello"),))
    *before, last = client.chat("prod", asked, Sampling(), routing_key="me")
    assert len(before) > 1
    assert (last.model.name, last.model.alias) == ("old", "prod")
    assert last.mean_nll is not None
    assert last.confidence == percent_at_least(GRID, last.mean_nll)
    with pytest.raises(errors.NotFound):
        list(client.chat("nothing", asked, Sampling()))
    client.close()
