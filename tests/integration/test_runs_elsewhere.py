"""Whole runs whose vectors and answers come from servers elsewhere (doubles of them, in front of the fakes)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from semievol.common import errors
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.backends.tei import TeiEmbedder
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.backends.openai import OpenAIEngine
from semievol.generation.backends.split import SplitEngine
from semievol.generation.core import Engine

from tests.fake_suite import Suite, fake_suite, knowing_script, write_colours
from tests.servers.openai_api import OpenAIDouble
from tests.servers.tei import TeiDouble


@contextmanager
def suite_elsewhere(home: Path, *, split: bool = False) -> Iterator[tuple[Suite, TeiDouble, OpenAIDouble]]:
    with ExitStack() as stack:
        tei = stack.enter_context(TeiDouble(FakeEmbedder(), max_client_batch_size=8).running())
        endpoints: list[OpenAIDouble] = []

        def engine_of(engine: FakeEngine) -> Engine:
            endpoints.append(stack.enter_context(OpenAIDouble(engine).running()))
            endpoint = OpenAIEngine(endpoints[0].endpoint, "fake")
            return SplitEngine(endpoint, lambda: engine, "0" * 64, "here") if split else endpoint

        suite = stack.enter_context(
            fake_suite(home, knowing_script, embedder=TeiEmbedder(tei.url, backoff_s=0.05), engine_of=engine_of)
        )
        yield suite, tei, endpoints[0]


def keys(suite: Suite, tei: TeiDouble, endpoint: OpenAIDouble) -> dict[str, Any]:
    """The run file of a run through an endpoint alone."""
    data = {role: suite.client.upload(write_colours(suite.home, role, role == "labeled")) for role in ("labeled", "unlabeled")}
    return {
        "embedding": tei.url,
        "engine": endpoint.endpoint,
        "data": data,
        "collaborators": 3,
        "in_weight": False,
        "entropy_source": "generated",
    }


def test_a_run_through_servers_elsewhere_trains_on_what_the_endpoint_was_sure_of(tmp_path: Path) -> None:
    with suite_elsewhere(tmp_path) as (suite, tei, endpoint):
        result = suite.run(suite.spec(**keys(suite, tei, endpoint)))
    (iteration,) = result["iterations"]
    assert result["state"] == "succeeded", result["error"]
    assert iteration["selected"] >= 10
    assert iteration["no_answer"] == 0
    assert iteration["unanimous"] + iteration["judged"] == 20
    assert iteration["accuracy"] == {"base": None, "warm": None, "evolved": None}
    assert result["models"]["evolved"]["name"].startswith("colours-evolved-")
    assert tei.called("/embed")
    assert endpoint.called("/v1/chat/completions")


def test_with_an_engine_of_our_own_beside_the_endpoint_the_whole_method_runs(tmp_path: Path) -> None:
    with suite_elsewhere(tmp_path, split=True) as (suite, tei, endpoint):
        result = suite.run(suite.spec(embedding=tei.url, engine=endpoint.endpoint, collaborators=6))
        asked = endpoint.called("/v1/chat/completions")
    (iteration,) = result["iterations"]
    assert result["state"] == "succeeded", result["error"]
    assert all(iteration["accuracy"][role]["n"] == 20 for role in ("base", "warm", "evolved"))
    base_configurations = {name for name in result["seconds"] if name.startswith("1/infer/base")}
    assert base_configurations
    assert len(asked) == 2 + 20 * len(base_configurations) + 20  # two services' probes, every row by each, every test row


def test_what_an_endpoint_alone_cannot_do_is_refused_before_any_work(tmp_path: Path) -> None:
    with suite_elsewhere(tmp_path) as (suite, tei, endpoint):
        spec = suite.spec(embedding=tei.url, engine=endpoint.endpoint)
        with pytest.raises(errors.InvalidInput, match=r"Set in_weight: false, entropy_source: generated, data\.test empty"):
            suite.client.submit(spec)
        assert suite.client.list_runs() == []


def test_a_diagnosis_names_the_embedding_servers_version_and_what_the_endpoint_serves(tmp_path: Path) -> None:
    with suite_elsewhere(tmp_path, split=True) as (suite, tei, _):
        found = {one.name: one.message for one in suite.client.diagnose().findings}
    assert f"{tei.url} (text-embeddings-inference 1.9.3), " in found["embedding"]
    assert "which serves fake" in found["generation"]


def test_a_run_outlives_servers_that_go_away_for_a_moment(tmp_path: Path) -> None:
    with suite_elsewhere(tmp_path / "calm") as (suite, tei, endpoint):
        calm = suite.run(suite.spec(**keys(suite, tei, endpoint)))
    with suite_elsewhere(tmp_path / "disturbed") as (suite, tei, endpoint):
        spec = suite.spec(**keys(suite, tei, endpoint))
        for server in (tei, endpoint):
            server.die()
            threading.Timer(1.0, server.start).start()
        disturbed = suite.run(spec)
    assert disturbed["state"] == "succeeded", disturbed["error"]
    assert disturbed["iterations"][0]["threshold"] == calm["iterations"][0]["threshold"]
    assert disturbed["iterations"][0]["selected"] == calm["iterations"][0]["selected"]


def test_another_embedding_model_in_the_middle_ends_the_run_as_a_conflict(tmp_path: Path) -> None:
    with suite_elsewhere(tmp_path) as (suite, tei, endpoint):
        spec = suite.spec(**keys(suite, tei, endpoint))
        tei.info["model_id"] = "another"
        result = suite.run(spec)
    assert (result["state"], result["error_class"]) == ("failed", "Conflict")
    assert "has got another model" in result["error"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"engine": "http://127.0.0.1:1/v1"}, "engine"),
        ({"engine": "transformers"}, "engine"),
        ({"embedding": "http://127.0.0.1:1"}, "embedding"),
    ],
)
def test_a_run_that_names_other_servers_than_those_at_work_is_refused(
    tmp_path: Path, changes: dict[str, str], field: str
) -> None:
    with suite_elsewhere(tmp_path) as (suite, tei, endpoint):
        spec = suite.spec(**(keys(suite, tei, endpoint) | changes))
        with pytest.raises(errors.Conflict, match=f"semievol serve --{field}") as caught:
            suite.client.submit(spec)
    assert caught.value.field == field


def test_doctor_asks_no_endpoint_to_train_and_says_so(tmp_path: Path) -> None:
    with suite_elsewhere(tmp_path) as (suite, _, endpoint):
        findings = {one.name: one for one in suite.client.diagnose(train=True).findings}
    assert findings["training"].status == pb.FINDING_STATUS_WARNING
    assert f"{endpoint.endpoint} trains for money" in findings["training"].message
    assert suite.trainer.created == 0
