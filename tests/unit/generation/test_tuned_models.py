"""Models that an endpoint has trained, served by our names for them. The endpoint is a double (tests/servers/openai_tuning.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.keys import canonical_json
from semievol.common.stores.local import LocalStore
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.backends.openai import OpenAIEngine
from semievol.ports import BASE_MODEL, Prompt, Sampling, ScoreRequest

from tests.generators import publish
from tests.servers.openai_tuning import JOBS, TuningDouble
from tests.servers.web import Call

PROMPT = Prompt("a", (Message("user", "What is the colour of grass?"),))
GREEDY = Sampling(max_tokens=8)
CHAT = "/v1/chat/completions"


@dataclass
class World:
    """An engine before an endpoint that has trained `model`, published at `uri`."""

    double: TuningDouble
    artifacts: Artifacts
    engine: OpenAIEngine
    model: str

    def publish(self, **changes: Any) -> str:
        told = {"model": self.model, "base": "small", "job": "ftjob-1", "endpoint": self.double.endpoint} | changes
        return publish(self.artifacts, {"openai_model.json": canonical_json(told), "README.md": b"card"})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with TuningDouble(FakeEngine(base="small")).running() as double:
        artifacts = Artifacts(LocalStore(tmp_path / "store"))
        engine = OpenAIEngine(double.endpoint, "small", artifacts=artifacts, max_retries=0)
        yield World(double, artifacts, engine, trained(double))
        engine.close()


def trained(double: TuningDouble) -> str:
    """A model of the double's that knows the colour of grass."""
    chat = {"messages": [{"role": "user", "content": "Which colour has grass?"}, {"role": "assistant", "content": "Answer: G"}]}
    double.files["file-1"] = b"".join(json.dumps(chat).encode() + b"\n" for _ in range(10))
    asked = {"model": "small", "training_file": "file-1", "seed": 0, "suffix": "s", "metadata": {}}
    asked["method"] = {"supervised": {"hyperparameters": {"n_epochs": 1}}}
    double.answer(Call("POST", JOBS, {}, json.dumps(asked).encode()))
    while (body := double.answer(Call("GET", f"{JOBS}/ftjob-1", {}, b"")).body)["status"] != "succeeded":
        pass
    return str(body["fine_tuned_model"])


def test_requests_for_the_name_are_answered_by_the_endpoints_own_model(world: World) -> None:
    uri = world.publish()
    info = world.engine.load_adapter("adapter-1", uri)
    assert (info.name, info.base, info.adapter) == ("adapter-1", "small", uri)
    (file,) = [one for one in world.artifacts.resolve(uri, field="uri")[0].files if one.path == "openai_model.json"]
    assert info.adapter_sha256 == file.sha256
    assert world.engine.models()[1:] == [info]
    (reply,) = world.engine.generate("adapter-1", [PROMPT], GREEDY)
    assert reply.completions[0].text == "Answer: G"
    assert len(reply.completions[0].token_logprobs) == 2
    assert "".join(delta.text for delta in world.engine.chat("adapter-1", PROMPT, GREEDY)) == "Answer: G"
    world.engine.generate(BASE_MODEL, [PROMPT], GREEDY)
    assert [call.json()["model"] for call in world.double.called(CHAT)] == [world.model, world.model, "small"]


def test_a_name_that_was_unloaded_is_not_found_and_never_means_another_model(world: World) -> None:
    uri = world.publish()
    for _ in range(2):
        world.engine.load_adapter("adapter-1", uri)  # the same again is a no-op
    world.engine.unload_adapter("adapter-1")
    with pytest.raises(errors.NotFound, match="not served here"):
        world.engine.generate("adapter-1", [PROMPT], GREEDY)
    with pytest.raises(errors.AlreadyExists) as caught:
        world.engine.load_adapter("adapter-1", world.publish(job="ftjob-2"))
    assert caught.value.field == "name"


def test_scores_of_such_a_model_are_not_to_be_had_either(world: World) -> None:
    world.engine.load_adapter("adapter-1", world.publish())
    with pytest.raises(errors.NotSupported, match="entropy_source: generated") as caught:
        world.engine.score("adapter-1", [ScoreRequest("a", PROMPT.messages, "b")])
    assert caught.value.field == "entropy_source"


def test_what_another_endpoint_trained_or_from_another_base_is_refused(world: World) -> None:
    for changes, words in (
        ({"endpoint": "http://elsewhere/v1"}, "trained by the endpoint at http://elsewhere/v1"),
        ({"base": "large"}, "was trained on large, and this engine serves small"),
    ):
        with pytest.raises(errors.InvalidInput, match=words) as caught:
            world.engine.load_adapter("new", world.publish(**changes))
        assert caught.value.field == "uri"
    for files in ({"openai_model.json": b"not json"}, {"openai_model.json": b"{}"}, {"report.json": b"{}"}):
        with pytest.raises(errors.InvalidInput, match=r"openai_model.json of .* cannot be read|is no trained model"):
            world.engine.load_adapter("new", publish(world.artifacts, files))
    assert len(world.engine.models()) == 1


def test_weights_are_refused_by_an_endpoint_alone(world: World) -> None:
    weights = publish(world.artifacts, {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"})
    with pytest.raises(errors.InvalidInput, match=r"holds weights \(PEFT\)") as caught:
        world.engine.load_adapter("new", weights)
    assert caught.value.field == "uri"


def test_a_model_without_weights_is_refused_by_an_engine_of_weights(world: World, tmp_path: Path) -> None:
    ours = FakeEngine(artifacts=world.artifacts, cache=tmp_path / "cache", base="small")
    with pytest.raises(errors.InvalidInput, match="semievol serve --engine URL --trainer openai") as caught:
        ours.load_adapter("new", world.publish())
    assert caught.value.field == "uri"


def test_a_model_that_is_not_served_yet_is_unavailable(world: World) -> None:
    uri = world.publish()
    world.double.forget(world.model)
    with pytest.raises(errors.Unavailable, match=f"does not serve {world.model}"):
        world.engine.load_adapter("adapter-1", uri)
    world.double.names.append(world.model)
    assert world.engine.load_adapter("adapter-1", uri)
