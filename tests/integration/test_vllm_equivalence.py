"""The same prompts on transformers and on vLLM, base and adapter, merged and hot: the same greedy tokens, the same log-probabilities.

Both in float32. The tolerance is 0.002 nats a token: other kernels add in another order. What breaks equality of tokens is a
near-tie: two tokens whose log-probabilities differ by less than the tolerance. Such places are told apart here, not excused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semievol.algorithm.types import Message
from semievol.common.artifacts import Artifacts
from semievol.common.models import resolve_model
from semievol.common.stores.local import LocalStore
from semievol.generation.backends.transformers import TransformersEngine
from semievol.ports import BASE_MODEL, Prompt, Sampling, ScoreRequest

from tests.generators import publish_directory, write_adapter

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

MODEL = "bundled:smollm2-135m"
TOLERANCE = 0.002
PROMPTS = [
    Prompt(f"p{i}", (Message("system", "Answer with one word."), Message("user", text)))
    for i, text in enumerate(
        (
            "Which is a colour: stone, blue, seven?",
            "The opposite of hot is",
            "Name the capital of France.",
            "A week has how many days?",
            "The streetlight in front of my house has been out for a week; who repairs it? " * 6,
        )
    )
]
GREEDY = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(LocalStore(tmp_path_factory.mktemp("equivalence") / "store"))


@pytest.fixture(scope="module")
def adapter(artifacts: Artifacts, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("adapter")
    directory = resolve_model(MODEL, model_cache).directory
    return publish_directory(artifacts, write_adapter(root / "one", directory, MODEL, 0, rank=16, std=0.02))


@pytest.fixture(scope="module")
def expected(artifacts: Artifacts, adapter: str, model_cache: Path) -> dict[str, Any]:
    """model -> what transformers answers and how it scores a fixed reply."""
    engine = TransformersEngine(MODEL, artifacts=artifacts, cache=model_cache, device="cpu", precision="float32")
    engine.load_adapter("one", adapter)
    return {model: _answers(engine, model) for model in (BASE_MODEL, "one")}


@pytest.fixture(scope="module", params=["merged", "hot"])
def engine(
    request: pytest.FixtureRequest, artifacts: Artifacts, adapter: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    from semievol.generation.backends.vllm import VllmEngine
    from semievol.generation.backends.vllm_options import VllmOptions

    engine = VllmEngine(
        MODEL,
        artifacts=artifacts,
        cache=tmp_path_factory.mktemp("vllm"),
        device="cpu",
        precision="float32",
        adapter_mode=request.param,
        options=VllmOptions(kv_cache_gib=0.5, max_model_tokens=2048),
    )
    engine.load_adapter("one", adapter)
    yield engine
    engine.close()


def _answers(engine: Any, model: str) -> Any:
    scored = [ScoreRequest(prompt.id, prompt.messages, "Answer: blue") for prompt in PROMPTS]
    return engine.generate(model, PROMPTS, GREEDY), engine.score(model, scored)


@pytest.mark.parametrize("model", [BASE_MODEL, "one"])
def test_greedy_tokens_and_scores_are_those_of_transformers(engine: Any, expected: dict[str, Any], model: str) -> None:
    (theirs, their_scores), (ours, our_scores) = expected[model], _answers(engine, model)
    for one, other in zip(theirs, ours, strict=True):
        assert other.completions[0].tokens == one.completions[0].tokens
        np.testing.assert_allclose(
            other.completions[0].token_logprobs, one.completions[0].token_logprobs, atol=TOLERANCE, err_msg=one.id
        )
        assert other.prompt_tokens == one.prompt_tokens
    for one, other in zip(their_scores, our_scores, strict=True):
        assert other.tokens == one.tokens
        np.testing.assert_allclose(other.token_logprobs, one.token_logprobs, atol=TOLERANCE, err_msg=one.id)


def test_the_adapter_is_another_model(expected: dict[str, Any]) -> None:
    assert expected["one"][1] != expected[BASE_MODEL][1]
