"""What every Generator, Scorer and AdapterHost does: the fake, transformers, vLLM (a real engine), and the gRPC client in front of each.

An OpenAI-compatible endpoint (a double of one, in front of the fake or of transformers) answers and does no more; with an engine of our own
beside it (split) everything is there again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semievol.algorithm.types import Message
from semievol.client.generation import GenerationClient
from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.stores.local import LocalStore
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.backends.openai import OpenAIEngine
from semievol.generation.backends.split import SplitEngine
from semievol.generation.core import Engine
from semievol.generation.server import service
from semievol.generation.settings import GenerationSettings
from semievol.ports import BASE_MODEL, NO_LIMIT, FinishReason, Prompt, Sampling, ScoreRequest

from tests.generators import publish, publish_directory, write_tiny_adapter, write_tiny_model
from tests.running import running
from tests.servers.openai_api import OpenAIDouble

SAMPLED = Sampling(temperature=1.0, max_tokens=8)
GREEDY = Sampling(max_tokens=8)


def ask(text: str, *seeds: int) -> Prompt:
    return Prompt(f"id of {text[:20]}", (Message("user", text),), seeds)


PROMPTS = [ask("Where is the key?"), ask("Why? " * 40), ask("x"), ask("Where is the other key?")]


@dataclass(frozen=True)
class World:
    """An implementation with the store that its adapters come from. `adapters`: two different ones that fit."""

    engine: Engine
    artifacts: Artifacts
    adapters: tuple[str, str]
    base: str


def _fake_adapter(artifacts: Artifacts, weights: bytes, **config: Any) -> str:
    body = {"peft_type": "LORA", "base_model_name_or_path": "fake", "r": 4} | config
    return publish(artifacts, {"adapter_config.json": json.dumps(body).encode(), "adapter_model.safetensors": weights})


def _fake_world(root: Path) -> World:
    artifacts = Artifacts(LocalStore(root / "store"))
    engine = FakeEngine(artifacts=artifacts, cache=root / "cache", max_model_tokens=512)
    return World(engine, artifacts, (_fake_adapter(artifacts, b"one"), _fake_adapter(artifacts, b"two")), "fake")


def _tiny_world(root: Path, tiny_model: Path, mode: str) -> World:
    from semievol.generation.backends.transformers import TransformersEngine

    artifacts = Artifacts(LocalStore(root / "store"))
    engine = TransformersEngine(
        str(tiny_model), artifacts=artifacts, cache=root / "cache", device="cpu", precision="float32", adapter_mode=mode
    )
    adapters = [publish_directory(artifacts, write_tiny_adapter(root / f"adapter{i}", tiny_model, i)) for i in (1, 2)]
    return World(engine, artifacts, (adapters[0], adapters[1]), str(tiny_model))


def _vllm_world(root: Path, model: Path, mode: str, stack: ExitStack) -> World:
    from semievol.generation.backends.vllm import VllmEngine
    from semievol.generation.backends.vllm_options import VllmOptions

    artifacts = Artifacts(LocalStore(root / "store"))
    engine = VllmEngine(
        str(model),
        artifacts=artifacts,
        cache=root / "cache",
        precision="float32",
        adapter_mode=mode,
        options=VllmOptions(kv_cache_gib=0.25),
    )
    stack.callback(engine.close)
    adapters = [publish_directory(artifacts, write_tiny_adapter(root / f"adapter{i}", model, i)) for i in (1, 2)]
    return World(engine, artifacts, (adapters[0], adapters[1]), str(model))


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory, bundled_tokenizer: Any) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", bundled_tokenizer)


ENGINES = [
    "fake",
    "fake-client",
    "fake-endpoint-split",
    pytest.param("merged", marks=pytest.mark.models),
    pytest.param("switched", marks=pytest.mark.models),
    pytest.param("merged-client", marks=pytest.mark.models),
    pytest.param("merged-endpoint-split", marks=pytest.mark.models),
    pytest.param("vllm:merged-client", marks=pytest.mark.models),
    pytest.param("vllm:hot", marks=pytest.mark.models),
]
ENDPOINTS = ["fake-endpoint", "fake-endpoint-client", pytest.param("merged-endpoint", marks=pytest.mark.models)]
engines_only = pytest.mark.parametrize("world", ENGINES, indirect=True)


@pytest.fixture(scope="module", params=[*ENGINES, *ENDPOINTS])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("generation")
    backend, *around = request.param.split("-")
    with ExitStack() as stack:
        if backend == "fake":
            world = _fake_world(root)
        elif backend.startswith("vllm:"):
            world = _vllm_world(root, request.getfixturevalue("wide_model"), backend.removeprefix("vllm:"), stack)
        else:
            world = _tiny_world(root, request.getfixturevalue("tiny_chat_model"), backend)
        if "endpoint" in around:
            double = stack.enter_context(OpenAIDouble(world.engine, max_model_len=512, end_token="<|im_end|>").running())
            endpoint = OpenAIEngine(double.endpoint, world.base, artifacts=world.artifacts)
            stack.callback(endpoint.close)
            ours = world.engine
            split = SplitEngine(endpoint, lambda: ours, ours.models()[0].base_sha256, "here")
            world = replace(world, engine=split if "split" in around else endpoint)
        if "client" in around:
            address = stack.enter_context(running(service(GenerationSettings(), world.engine)))
            client = GenerationClient(address)
            stack.callback(client.close)
            world = replace(world, engine=client)
        yield world


# ---------------------------------------------------------------- generate


def test_replies_come_in_input_order_with_one_logprob_a_token(world: World) -> None:
    generations = world.engine.generate(BASE_MODEL, PROMPTS, GREEDY)
    assert [one.id for one in generations] == [prompt.id for prompt in PROMPTS]
    for one in generations:
        assert one.prompt_tokens > 0
        (completion,) = one.completions
        assert len(completion.tokens) == len(completion.token_logprobs) <= 8
        assert all(logprob <= 0 for logprob in completion.token_logprobs)
    assert generations[1].prompt_tokens > generations[2].prompt_tokens


def test_no_prompts_give_no_replies(world: World) -> None:
    assert world.engine.generate(BASE_MODEL, [], GREEDY) == []
    assert world.engine.score(BASE_MODEL, []) == []


def test_seeds_repeat_and_other_seeds_differ(world: World) -> None:
    prompts = [ask("Tell me a number.", seed) for seed in range(12)]
    first = world.engine.generate(BASE_MODEL, prompts, SAMPLED)
    assert world.engine.generate(BASE_MODEL, prompts, SAMPLED) == first
    assert len({one.completions[0].text for one in first}) > 2


def test_a_sample_depends_on_its_own_seed_and_not_on_its_neighbours(world: World) -> None:
    one = world.engine.generate(BASE_MODEL, [ask("Name it.", 1), ask("Tell me!", 2)], SAMPLED)
    other = world.engine.generate(BASE_MODEL, [ask("Name it.", 1), ask("Tell me!", 3)], SAMPLED)
    assert one[0] == other[0]


def test_n_samples_are_those_of_their_seeds_one_by_one(world: World) -> None:
    seeds = (5, 6, 7)
    together = world.engine.generate(BASE_MODEL, [ask("Tell me a number.", *seeds)], Sampling(3, 1.0, max_tokens=8))
    apart = [world.engine.generate(BASE_MODEL, [ask("Tell me a number.", seed)], SAMPLED)[0] for seed in seeds]
    assert [one.text for one in together[0].completions] == [one.completions[0].text for one in apart]


def test_unseeded_sampling_works(world: World) -> None:
    (generation,) = world.engine.generate(BASE_MODEL, [ask("Tell me a number.")], Sampling(2, 1.0, 0.9, 4))
    assert len(generation.completions) == 2


def test_a_reply_is_cut_at_max_tokens_and_says_so(world: World) -> None:
    (generation,) = world.engine.generate(BASE_MODEL, [ask("Tell me a number.")], Sampling(max_tokens=1))
    assert generation.completions[0].finish_reason is FinishReason.LENGTH
    assert len(generation.completions[0].tokens) == 1


def test_a_reply_without_a_limit_ends_by_itself_or_with_the_models_room(world: World) -> None:
    (generation,) = world.engine.generate(BASE_MODEL, [ask("Tell me a number.")], Sampling(max_tokens=NO_LIMIT))
    (completion,) = generation.completions
    assert generation.prompt_tokens + len(completion.tokens) <= 512
    if completion.finish_reason is FinishReason.LENGTH:
        assert generation.prompt_tokens + len(completion.tokens) == 512


def test_a_stop_string_ends_a_reply_and_is_not_part_of_it(world: World) -> None:
    (whole,) = world.engine.generate(BASE_MODEL, [ask("Tell me a number.")], GREEDY)
    text = whole.completions[0].text
    stop = text[len(text) // 2 :][:3]
    (cut,) = world.engine.generate(BASE_MODEL, [ask("Tell me a number.")], Sampling(max_tokens=8, stop=(stop, "never")))
    completion = cut.completions[0]
    assert completion.text == text[: text.index(stop)]
    assert completion.finish_reason is FinishReason.STOP
    assert len(completion.tokens) == len(completion.token_logprobs) <= len(whole.completions[0].tokens)


@pytest.mark.parametrize("asked", [1, 5, 20])
def test_the_likeliest_tokens_are_told_at_each_place(world: World, asked: int) -> None:
    """Likeliest first, and together at most certain. A greedy reply takes the first of them: equal up to 1e-4 nats, rounded twice."""
    sampling = replace(GREEDY, top_logprobs=asked)
    (generation,) = world.engine.generate(BASE_MODEL, PROMPTS[:1], sampling)
    (completion,) = generation.completions
    assert len(completion.top_logprobs) == len(completion.tokens) > 0
    for token, logprob, top in zip(completion.tokens, completion.token_logprobs, completion.top_logprobs, strict=True):
        assert len(top) == asked
        assert top[0].text == token
        assert top[0].logprob == pytest.approx(logprob, abs=1e-4)
        assert [one.logprob for one in top] == sorted((one.logprob for one in top), reverse=True)
        assert sum(np.exp(one.logprob) for one in top) <= 1 + 1e-4
    deltas = list(world.engine.chat(BASE_MODEL, PROMPTS[0], sampling))
    streamed = [top for delta in deltas for top in delta.top_logprobs]
    assert [[one.text for one in top] for top in streamed] == [[one.text for one in top] for top in completion.top_logprobs]


def test_the_likeliest_tokens_are_those_before_temperature(world: World) -> None:
    """The first token's alternatives are the prompt's, whatever was drawn and however the distribution was bent for it."""
    sampling = Sampling(temperature=2.0, top_p=0.5, max_tokens=1, top_logprobs=3)
    drawn = world.engine.generate(BASE_MODEL, [ask("Tell me a number.", seed) for seed in range(3)], sampling)
    (greedy,) = world.engine.generate(BASE_MODEL, [ask("Tell me a number.")], Sampling(max_tokens=1, top_logprobs=3))
    for one in drawn:
        ours, raw = one.completions[0].top_logprobs[0], greedy.completions[0].top_logprobs[0]
        np.testing.assert_allclose([o.logprob for o in ours], [o.logprob for o in raw], atol=1e-4)


def test_nobody_who_does_not_ask_is_told_other_tokens(world: World) -> None:
    (generation,) = world.engine.generate(BASE_MODEL, PROMPTS[:1], GREEDY)
    assert generation.completions[0].top_logprobs == ()
    assert all(delta.top_logprobs == () for delta in world.engine.chat(BASE_MODEL, PROMPTS[0], GREEDY))


@engines_only
def test_raw_text_is_continued_without_a_chat_template(world: World) -> None:
    text = "one two three four"
    (raw,) = world.engine.generate(BASE_MODEL, [Prompt("raw", text=text)], GREEDY)
    (chat,) = world.engine.generate(BASE_MODEL, [ask(text)], GREEDY)
    assert 4 <= raw.prompt_tokens <= chat.prompt_tokens
    assert len(raw.completions[0].tokens) == len(raw.completions[0].token_logprobs) > 0
    deltas = list(world.engine.chat(BASE_MODEL, Prompt("raw", text=text), GREEDY))
    assert "".join(delta.text for delta in deltas) == raw.completions[0].text
    assert deltas[-1].prompt_tokens == raw.prompt_tokens


@engines_only
def test_raw_text_longer_than_the_model_is_told_as_such(world: World) -> None:
    with pytest.raises(errors.InvalidInput, match="raw") as caught:
        world.engine.generate(BASE_MODEL, [Prompt("raw", text="long " * 600)], GREEDY)
    assert caught.value.details == {"reason": "context_length"}


@engines_only
def test_greedy_logprobs_are_those_of_scoring_the_same_reply(world: World) -> None:
    """Up to 1e-4 nats: float32 over other shapes. Replies whose text does not give back their tokens cannot be compared."""
    generations = world.engine.generate(BASE_MODEL, PROMPTS, GREEDY)
    requests = [ScoreRequest(p.id, p.messages, g.completions[0].text) for p, g in zip(PROMPTS, generations, strict=True)]
    compared = 0
    for generation, score in zip(generations, world.engine.score(BASE_MODEL, requests), strict=True):
        (completion,) = generation.completions
        if score.tokens == completion.tokens:
            compared += 1
            np.testing.assert_allclose(score.token_logprobs, completion.token_logprobs, atol=1e-4)
    assert compared > 0


@pytest.mark.parametrize(
    ("prompt", "sampling", "field"),
    [
        (Prompt("p", ()), GREEDY, "prompts[1].messages"),
        (Prompt("p", (Message("user", "a"),), text="b"), GREEDY, "prompts[1].text"),
        (Prompt("p", text="\ud800"), GREEDY, "prompts[1].text"),
        (ask("a"), Sampling(top_logprobs=21), "sampling.top_logprobs"),
        (ask("a"), Sampling(top_logprobs=-1), "sampling.top_logprobs"),
        (Prompt("p", (Message("robot", "hi"),)), GREEDY, "prompts[1].messages[0].role"),
        (Prompt("p", (Message("user", ""),)), GREEDY, "prompts[1].messages[0].content"),
        (Prompt("p", (Message("user", "\ud800"),)), GREEDY, "prompts[1].messages[0].content"),
        (Prompt("p", (Message("user", "a"), Message("assistant", "b"))), GREEDY, "prompts[1].messages"),
        (ask("a", 1, 2), SAMPLED, "prompts[1].seeds"),
        (ask("a", -1), SAMPLED, "prompts[1].seeds"),
        (ask("a"), Sampling(n=2), "sampling.sample_count"),
        (ask("a"), Sampling(n=65, temperature=1.0), "sampling.sample_count"),
        (ask("a"), Sampling(temperature=2.5), "sampling.temperature"),
        (ask("a"), Sampling(temperature=1.0, top_p=1.5), "sampling.top_p"),
        (ask("a"), Sampling(max_tokens=-1), "sampling.max_tokens"),
        (ask("a"), Sampling(stop=("",)), "sampling.stop"),
        (ask("long " * 600), GREEDY, "prompts[1].messages"),
    ],
)
def test_a_bad_request_names_its_field(world: World, prompt: Prompt, sampling: Sampling, field: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        world.engine.generate(BASE_MODEL, [ask("fine"), prompt], sampling)
    assert caught.value.field is not None
    assert (
        caught.value.field.startswith(field.removesuffix(".messages")) if "long" in str(prompt) else caught.value.field == field
    )


def test_a_prompt_longer_than_the_model_is_named_by_id(world: World) -> None:
    with pytest.raises(errors.InvalidInput, match="id of long long") as caught:
        world.engine.generate(BASE_MODEL, [ask("fine"), ask("long " * 600)], GREEDY)
    assert caught.value.details == {"reason": "context_length"}


def test_an_unknown_model_is_not_found_and_the_known_ones_are_listed(world: World) -> None:
    for call in (
        lambda: world.engine.generate("nobody", PROMPTS, GREEDY),
        lambda: world.engine.score("nobody", [ScoreRequest("a", PROMPTS[0].messages, "b")]),
        lambda: list(world.engine.chat("nobody", PROMPTS[0], GREEDY)),
    ):
        with pytest.raises(errors.NotFound, match="base") as caught:
            call()
        assert caught.value.field == "model"


def test_a_cancelled_call_raises_cancelled(world: World) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(errors.Cancelled):
        world.engine.generate(BASE_MODEL, PROMPTS, GREEDY, cancel=cancel)
    with pytest.raises(errors.Cancelled):
        world.engine.score(BASE_MODEL, [ScoreRequest("a", PROMPTS[0].messages, "b")], cancel=cancel)
    with pytest.raises(errors.Cancelled):
        list(world.engine.chat(BASE_MODEL, PROMPTS[0], GREEDY, cancel=cancel))


# ---------------------------------------------------------------- chat


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(max_tokens=1)])
def test_a_stream_adds_up_to_the_reply(world: World, sampling: Sampling) -> None:
    prompt = ask("Tell me a number.", 3)
    deltas = list(world.engine.chat(BASE_MODEL, prompt, sampling))
    (generation,) = world.engine.generate(BASE_MODEL, [prompt], sampling)
    (completion,) = generation.completions
    assert "".join(delta.text for delta in deltas) == completion.text
    assert tuple(token for delta in deltas for token in delta.tokens) == completion.tokens
    np.testing.assert_allclose([p for delta in deltas for p in delta.token_logprobs], completion.token_logprobs, atol=1e-5)
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason is completion.finish_reason
    assert deltas[-1].prompt_tokens == generation.prompt_tokens


def test_a_stream_never_shows_part_of_a_stop_string(world: World) -> None:
    (whole,) = world.engine.generate(BASE_MODEL, [ask("Tell me a number.")], GREEDY)
    text = whole.completions[0].text
    stop = text[2:6]
    deltas = list(world.engine.chat(BASE_MODEL, ask("Tell me a number."), Sampling(max_tokens=8, stop=(stop,))))
    assert "".join(delta.text for delta in deltas) == text[: text.index(stop)]
    assert deltas[-1].finish_reason is FinishReason.STOP


def test_a_stream_carries_one_reply(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        list(world.engine.chat(BASE_MODEL, ask("a"), Sampling(n=2, temperature=1.0)))
    assert caught.value.field == "sampling.sample_count"


def test_a_stream_can_be_left_early(world: World) -> None:
    stream = world.engine.chat(BASE_MODEL, ask("Tell me a number."), Sampling(max_tokens=64))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert world.engine.generate(BASE_MODEL, [ask("x")], GREEDY)


# ---------------------------------------------------------------- score


@engines_only
def test_scores_are_per_token_and_an_empty_response_has_none(world: World) -> None:
    responses = ["Answer: blue", "", "Answer: a much longer reply than the others"]
    requests = [ScoreRequest(text, PROMPTS[i].messages, text) for i, text in enumerate(responses)]
    scores = world.engine.score(BASE_MODEL, requests)
    assert [score.id for score in scores] == responses
    assert ["".join(score.tokens) for score in scores] == responses
    for score in scores:
        assert len(score.token_logprobs) == len(score.tokens)
        assert all(np.isfinite(score.token_logprobs))
    assert world.engine.score(BASE_MODEL, requests) == scores
    assert scores[1].tokens == ()


@engines_only
def test_a_response_too_long_for_the_model_is_named(world: World) -> None:
    with pytest.raises(errors.InvalidInput, match="who"):
        world.engine.score(BASE_MODEL, [ScoreRequest("who", PROMPTS[0].messages, "long " * 600)])


@engines_only
def test_a_score_without_messages_names_its_field(world: World) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        world.engine.score(BASE_MODEL, [ScoreRequest("a", (), "b")])
    assert caught.value.field == "items[0].messages"


# ---------------------------------------------------------------- adapters


@pytest.fixture
def served(world: World) -> Iterator[str]:
    yield world.engine.load_adapter("first-1.0", world.adapters[0]).name
    world.engine.unload_adapter("first-1.0")


@engines_only
def test_an_adapter_is_served_under_its_name_with_its_digest(world: World, served: str) -> None:
    base, adapter = world.engine.models()
    assert (base.name, base.base, base.adapter, base.max_model_tokens) == (BASE_MODEL, world.base, "", 512)
    assert (adapter.name, adapter.base, adapter.adapter) == (served, world.base, world.adapters[0])
    assert adapter.base_sha256 == base.base_sha256
    assert len(adapter.adapter_sha256) == len(base.base_sha256) == 64


@engines_only
def test_an_adapter_changes_the_replies_and_not_the_base_models(world: World) -> None:
    requests = [ScoreRequest("a", PROMPTS[0].messages, "Answer: blue")]
    before = world.engine.score(BASE_MODEL, requests)
    world.engine.load_adapter("first-1.0", world.adapters[0])
    world.engine.load_adapter("second", world.adapters[1])
    scores = [world.engine.score(model, requests)[0].token_logprobs for model in (BASE_MODEL, "first-1.0", "second")]
    assert scores[0] == before[0].token_logprobs
    assert len(set(scores)) == 3
    assert world.engine.score("first-1.0", requests)[0].token_logprobs == scores[1]
    world.engine.unload_adapter("first-1.0")
    assert world.engine.score("second", requests)[0].token_logprobs == pytest.approx(scores[2], abs=1e-5)
    world.engine.unload_adapter("second")
    assert world.engine.score(BASE_MODEL, requests) == before
    with pytest.raises(errors.NotFound):
        world.engine.score("second", requests)


@engines_only
def test_the_same_adapter_again_is_a_no_op(world: World, served: str) -> None:
    assert world.engine.load_adapter(served, world.adapters[0]).name == served
    assert len(world.engine.models()) == 2


@engines_only
def test_a_name_is_never_reused_for_other_content_even_after_unloading(world: World, served: str) -> None:
    with pytest.raises(errors.AlreadyExists) as caught:
        world.engine.load_adapter(served, world.adapters[1])
    assert caught.value.field == "name"
    world.engine.unload_adapter(served)
    with pytest.raises(errors.AlreadyExists):
        world.engine.load_adapter(served, world.adapters[1])


@pytest.mark.parametrize("name", ["", "base", "a b", "ä", "x" * 129, "a/b"])
@engines_only
def test_a_bad_name_is_refused(world: World, name: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        world.engine.load_adapter(name, world.adapters[0])
    assert caught.value.field == "name"


@engines_only
def test_what_is_no_adapter_is_refused(world: World) -> None:
    no_weights = publish(world.artifacts, {"adapter_config.json": b"{}", "adapter_model.bin": b"pickle"})
    no_config = publish(world.artifacts, {"adapter_config.json": b"not json", "adapter_model.safetensors": b""})
    other_base = _fake_adapter(world.artifacts, b"three", base_model_name_or_path="another/model")
    other_kind = _fake_adapter(world.artifacts, b"four", peft_type="IA3")
    for uri, words in (
        ("http://somewhere", "artifact URI"),
        (no_weights, "safetensors"),
        (no_config, "cannot be read"),
        (other_base, "another/model"),
        (other_kind, "IA3"),
    ):
        with pytest.raises(errors.InvalidInput, match=words) as caught:
            world.engine.load_adapter("new", uri)
        assert caught.value.field == "uri"
    with pytest.raises(errors.NotFound):
        world.engine.load_adapter("new", "artifact:" + "0" * 64)
    assert len(world.engine.models()) == 1


@engines_only
def test_unloading_what_is_not_loaded_is_no_error_and_the_base_stays(world: World) -> None:
    world.engine.unload_adapter("never-seen")
    with pytest.raises(errors.InvalidInput) as caught:
        world.engine.unload_adapter(BASE_MODEL)
    assert caught.value.field == "name"


# ---------------------------------------------------------------- endpoints


@pytest.mark.parametrize("world", ENDPOINTS, indirect=True)
def test_an_endpoint_says_what_it_cannot_do_and_what_to_do_instead(world: World) -> None:
    (base,) = world.engine.models()
    assert (base.name, base.base, base.max_model_tokens) == (BASE_MODEL, world.base, 512)
    assert base.engine.startswith("openai/tests@http://127.0.0.1:")
    with pytest.raises(errors.NotSupported, match="entropy_source: generated"):
        world.engine.score(BASE_MODEL, [ScoreRequest("a", PROMPTS[0].messages, "b")])
    with pytest.raises(errors.InvalidInput, match=r"holds weights \(PEFT\).*engine: transformers") as caught:
        world.engine.load_adapter("new", world.adapters[0])
    assert caught.value.field == "uri"
    for call in (
        lambda: world.engine.generate(BASE_MODEL, [Prompt("raw", text="Once")], GREEDY),
        lambda: list(world.engine.chat(BASE_MODEL, Prompt("raw", text="Once"), GREEDY)),
    ):
        with pytest.raises(errors.NotSupported, match="no raw text"):
            call()
    world.engine.unload_adapter("never-seen")
    with pytest.raises(errors.InvalidInput):
        world.engine.unload_adapter(BASE_MODEL)
