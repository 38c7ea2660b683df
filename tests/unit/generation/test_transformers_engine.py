"""The transformers backend: batches, adapters in both modes, cancellation; a tiny random model, and the real one once."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.models import LocalModel
from semievol.common.stores.local import LocalStore
from semievol.ports import BASE_MODEL, FinishReason, Prompt, Sampling, ScoreRequest

from tests.generators import publish_directory, write_tiny_adapter, write_tiny_model

pytestmark = pytest.mark.models

INSTRUCTION = "Sort this message to the team that has to deal with it, and name the team in one word, nothing else. "
TEXTS = [
    INSTRUCTION + "The lift is stuck.",
    INSTRUCTION + "There is a strange smell in the kitchen of the second floor, and nobody knows where it comes from.",
    INSTRUCTION + "Invoice 42 is wrong.",
    "Hello.",
]
SCORES = [ScoreRequest(text, (Message("user", text),), reply) for text in TEXTS for reply in ("Answer: blue", "No")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, bundled_tokenizer: Any) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", bundled_tokenizer)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(LocalStore(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, tiny: Path, artifacts: Artifacts) -> list[str]:
    root = tmp_path_factory.mktemp("adapters")
    return [publish_directory(artifacts, write_tiny_adapter(root / str(seed), tiny, seed)) for seed in range(3)]


def make_engine(tiny: Path, artifacts: Artifacts, cache: Path, **options: Any) -> Any:
    from semievol.generation.backends.transformers import TransformersEngine

    return TransformersEngine(str(tiny), artifacts=artifacts, cache=cache, device="cpu", precision="float32", **options)


@pytest.fixture(scope="module")
def engine(tiny: Path, artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_engine(tiny, artifacts, tmp_path_factory.mktemp("cache"))


def _prompts(texts: Sequence[str], seed: int = 1) -> list[Prompt]:
    return [Prompt(text, (Message("user", text),), (seed,)) for text in texts]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:3]], ids=["padded", "shared prefix"])
def test_a_row_gets_alone_what_it_gets_in_a_batch(engine: Any, texts: list[str]) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=12)
    together = engine.generate(BASE_MODEL, _prompts(texts), sampling)
    for prompt, generation in zip(_prompts(texts), together, strict=True):
        (alone,) = engine.generate(BASE_MODEL, [prompt], sampling)
        assert alone.completions[0].text == generation.completions[0].text
        np.testing.assert_allclose(alone.completions[0].token_logprobs, generation.completions[0].token_logprobs, atol=1e-4)


def test_a_score_alone_is_the_score_in_a_batch_and_in_any_split(
    engine: Any, tiny: Path, artifacts: Artifacts, tmp_path: Path
) -> None:
    together = engine.score(BASE_MODEL, SCORES)
    narrow = make_engine(tiny, artifacts, tmp_path, batch_tokens=200).score(BASE_MODEL, SCORES)
    for request, one, other in zip(SCORES, together, narrow, strict=True):
        (alone,) = engine.score(BASE_MODEL, [request])
        np.testing.assert_allclose(alone.token_logprobs, one.token_logprobs, atol=1e-4)
        np.testing.assert_allclose(other.token_logprobs, one.token_logprobs, atol=1e-4)


def test_many_samples_of_a_prompt_are_those_of_their_seeds(engine: Any) -> None:
    prompts = [Prompt(text, (Message("user", text),), (1, 2, 3)) for text in TEXTS]
    together = engine.generate(BASE_MODEL, prompts, Sampling(3, 1.0, max_tokens=12))
    for place, seed in enumerate((1, 2, 3)):
        apart = engine.generate(BASE_MODEL, _prompts(TEXTS, seed), Sampling(1, 1.0, max_tokens=12))
        assert [one.completions[place].text for one in together] == [one.completions[0].text for one in apart]


def test_a_reply_ends_where_the_models_context_ends(engine: Any) -> None:
    text = "word " * 440
    (generation,) = engine.generate(BASE_MODEL, _prompts([text]), Sampling(temperature=1.0, max_tokens=400))
    (completion,) = generation.completions
    assert completion.finish_reason is FinishReason.LENGTH
    assert generation.prompt_tokens + len(completion.tokens) == 512


def test_merged_and_switched_adapters_agree(tiny: Path, artifacts: Artifacts, adapters: list[str], tmp_path: Path) -> None:
    """Within 1e-3 nats in float32: the products are added in another order."""
    merged = make_engine(tiny, artifacts, tmp_path, adapter_mode="merged", merged_models=1)
    switched = make_engine(tiny, artifacts, tmp_path, adapter_mode="switched")
    for place, uri in enumerate(adapters):
        merged.load_adapter(f"a{place}", uri)
        switched.load_adapter(f"a{place}", uri)
    for model in ("a0", "a2", BASE_MODEL, "a1", "a0"):
        for one, other in zip(merged.score(model, SCORES), switched.score(model, SCORES), strict=True):
            np.testing.assert_allclose(one.token_logprobs, other.token_logprobs, atol=1e-3)


@pytest.mark.parametrize("mode", ["merged", "switched"])
def test_what_does_not_fit_is_refused_and_leaves_no_trace(
    mode: str, tiny: Path, artifacts: Artifacts, adapters: list[str], bundled_tokenizer: Any, tmp_path: Path
) -> None:
    engine = make_engine(tiny, artifacts, tmp_path, adapter_mode=mode)
    before = engine.score(BASE_MODEL, SCORES)
    untrained = publish_directory(artifacts, write_tiny_adapter(tmp_path / "untrained", tiny, 0, trained=False))
    foreign = publish_directory(artifacts, write_tiny_adapter(tmp_path / "foreign", tiny, 0, r=8))
    elsewhere = publish_directory(artifacts, write_tiny_adapter(tmp_path / "else", tiny, 0, target_modules=["no_such_layer"]))
    partial = publish_directory(artifacts, write_tiny_adapter(tmp_path / "partial", tiny, 0, target_modules=["q_proj"]))
    for _ in range(2):  # as the first adapter, and beside one that is loaded
        for uri, words in (
            (untrained, "changes nothing"),
            (foreign, "does not fit"),
            (elsewhere, "does not fit"),
            (partial, "have no place"),
        ):
            with pytest.raises(errors.InvalidInput, match=words) as caught:
                engine.load_adapter("bad", uri)
            assert caught.value.field == "uri"
        assert engine.score(BASE_MODEL, SCORES) == before
        engine.load_adapter("good", adapters[0])
    assert [model.name for model in engine.models()] == [BASE_MODEL, "good"]
    assert engine.score("good", SCORES) != before


def test_cancelling_stops_the_model_between_two_tokens(engine: Any) -> None:
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(errors.Cancelled):
        engine.generate(BASE_MODEL, _prompts(TEXTS * 200), Sampling(temperature=1.0, max_tokens=400), cancel=cancel)
    assert time.monotonic() - started < 20


def test_a_stream_that_is_left_stops_the_model(engine: Any) -> None:
    stream = engine.chat(BASE_MODEL, _prompts(["Hello."])[0], Sampling(temperature=1.0, max_tokens=400))
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "chat"]


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path, artifacts: Artifacts) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(errors.InvalidInput, match="cannot be loaded") as caught:
        make_engine(tmp_path, artifacts, tmp_path)
    assert caught.value.field == "model"


@pytest.mark.parametrize(("start", "end"), [(None, -1000), (9, None)], ids=["truncated", "without its header"])
def test_a_model_with_damaged_weights_is_refused(
    tmp_path: Path, artifacts: Artifacts, word_model: Path, start: int | None, end: int | None
) -> None:
    directory = shutil.copytree(word_model, tmp_path / "damaged")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[start:end])
    with pytest.raises(errors.InvalidInput, match="cannot be loaded") as caught:
        make_engine(directory, artifacts, tmp_path)
    assert caught.value.field == "model"


def test_the_real_model_knows_a_capital(bundled_model: LocalModel) -> None:
    from semievol.generation.backends.transformers import TransformersEngine

    engine = TransformersEngine("bundled:smollm2-135m", cache=bundled_model.directory.parent, device="cpu")
    (prompt,) = _prompts(["What is the capital of France?"])
    (generation,) = engine.generate(BASE_MODEL, [prompt], Sampling(max_tokens=24))
    assert "Paris" in generation.completions[0].text
    requests = [ScoreRequest(city, prompt.messages, f"The capital of France is {city}.") for city in ("Paris", "Lagos")]
    right, wrong = engine.score(BASE_MODEL, requests)
    assert np.mean(right.token_logprobs) > np.mean(wrong.token_logprobs)
