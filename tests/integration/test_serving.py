"""From a run to a client's question: what a run registers is what the router serves, with the controller there or not."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
from semievol.algorithm.statistics import percent_at_least, quantile_grid
from semievol.common.registry import Registry
from semievol.common.stores import open_store

from tests.fake_suite import Suite, fake_suite
from tests.grpc.routing import RouterUnderTest, engine_at_work, fake_engine, router, soon
from tests.manifests import manifests


def selected_entropies(suite: Suite) -> list[list[float]]:
    """Of each select step in the store, H of the rows that it kept."""
    found = []
    for path in sorted(manifests(suite.home)):
        manifest = suite.artifacts.manifest_at(path)
        if manifest and manifest.contract.startswith("select/"):
            lines = suite.artifacts.read_json_lines(manifest.file("fates.jsonl"))
            found.append([line["entropy"] for line in lines if line["reason"] == "kept"])
    return found


def test_models_know_the_pseudo_labels_that_they_learned_from(tmp_path: Path) -> None:
    """Two iterations. The first warm model learned from none; the second one, which is the first evolved model, from what was selected before
    it, as that did; the last evolved model from what the second iteration selected."""
    with fake_suite(tmp_path) as suite:
        result = suite.run(suite.spec(iterations=2, theta=40))
        assert not result["error"]
        grids = {quantile_grid(entropies) for entropies in selected_entropies(suite)}
        models = {(model.role, model.iteration): model.selected_entropies for model in Registry(open_store(suite.store)).models()}
    assert len(grids) == 2
    assert models["warm", 1] == ()
    assert models["evolved", 1] in grids
    assert models["warm", 2] == models["evolved", 1]
    assert {models["evolved", 1], models["evolved", 2]} == grids


def test_the_alias_of_a_run_is_served_with_confidence(tmp_path: Path) -> None:
    with fake_suite(tmp_path) as suite, grpc.insecure_channel(suite.addresses["router"]) as channel:
        name = suite.run(suite.spec())["models"]["evolved"]["name"]
        served = RouterUnderTest(suite.addresses["router"], channel)
        reply = served.generate("colours", "Question: Which is the red one?")
        assert (reply.model.name, reply.model.alias) == (name, "colours")
        (completion,) = reply.generations[0].completions
        (model,) = [one for one in Registry(open_store(suite.store)).models() if one.name == name]
        assert completion.confidence == percent_at_least(model.selected_entropies, completion.mean_nll)
        assert [one.name for one in suite.client.list_models().models if one.name == name] == [name]


def test_promotions_and_canaries_of_the_controller_reach_the_router_which_outlives_it(tmp_path: Path) -> None:
    with fake_suite(tmp_path) as suite:
        first = suite.run(suite.spec())["models"]["evolved"]["name"]
        second = suite.run(suite.spec(seed=1))["models"]["evolved"]["name"]
        suite.client.promote(first, "colours")
        alias = suite.client.promote(second, "colours", 50)
        assert (alias.model, alias.canary_model, alias.canary_weight) == (first, second, 50)
    store = open_store(suite.store)  # no controller from here on
    with engine_at_work(fake_engine(store, tmp_path / "engine")) as engine, router(store, [engine]) as served:
        who = {key: served.who("colours", key) for key in map(str, range(40))}
        assert set(who.values()) == {first, second}
        Registry(store).rollback("colours")
        assert soon(lambda: {served.who("colours", key) for key in who} == {first})


def test_old_records_are_served_without_confidence(tmp_path: Path) -> None:
    with fake_suite(tmp_path) as suite, grpc.insecure_channel(suite.addresses["router"]) as channel:
        name = suite.run(suite.spec())["models"]["evolved"]["name"]
        store = open_store(suite.store)
        path = f"models/{name}.json"
        with store.open(path) as stream:
            record = json.load(stream)
        del record["selected_entropies"]
        store.put(path, json.dumps(record).encode())
        reply = RouterUnderTest(suite.addresses["router"], channel).generate("colours")
        assert reply.model.name == name
        assert not reply.generations[0].completions[0].HasField("confidence")
        assert suite.client.list_models().models[-1].name == name
