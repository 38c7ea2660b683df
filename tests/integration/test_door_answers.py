"""What the official client gets through the door: chats, completions, embeddings, models; at once, streamed, and from an event loop."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from semievol.client.generation import GenerationClient
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.generation.backends.fake import FakeEngine
from semievol.ports import NO_LIMIT, ModelInfo, Prompt

from tests.doors import HELLO, KEY, Opened, Recording, counting, opened


@pytest.fixture(scope="module")
def engine() -> Recording:
    return Recording()


@pytest.fixture(scope="module")
def door(engine: Recording) -> Iterator[Opened]:
    with opened(engine) as door:
        yield door


@pytest.fixture(scope="module")
def client(door: Opened) -> Iterator[openai.OpenAI]:
    with door.client() as client:
        yield client


def raw(door: Opened, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{door.url}{path}", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


def events(response: httpx.Response) -> list[Any]:
    """The chunks of a stream, which ends as it must."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# ---------------------------------------------------------------- chats


def test_a_chat_is_answered_with_what_was_read_and_written(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="base", messages=HELLO, temperature=0)
    (choice,) = reply.choices
    assert choice.message.content == "one two three seed 0 six seven eight"
    assert (choice.message.role, choice.finish_reason, choice.logprobs) == ("assistant", "stop", None)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (5, 8, 13)
    assert reply.model == "base"
    assert reply.system_fingerprint


def test_answers_and_chunks_have_the_shapes_that_the_official_types_ask_for(door: Opened) -> None:
    asked = {"model": "base", "messages": HELLO, "logprobs": True, "top_logprobs": 2, "n": 2}
    ChatCompletion.model_validate(raw(door, "/chat/completions", asked).json(), strict=True)
    for chunk in events(raw(door, "/chat/completions", asked | {"stream": True, "stream_options": {"include_usage": True}})):
        ChatCompletionChunk.model_validate(chunk, strict=True)
    asked = {"model": "base", "prompt": ["Once", "Twice"], "logprobs": 2}
    Completion.model_validate(raw(door, "/completions", asked).json(), strict=True)
    CreateEmbeddingResponse.model_validate(raw(door, "/embeddings", {"model": "embedding", "input": "a"}).json(), strict=True)


def test_what_is_asked_for_reaches_the_engine(client: openai.OpenAI, engine: Recording) -> None:
    client.chat.completions.create(
        model="base",
        messages=[
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
            {"role": "assistant", "content": "Three."},
            {"role": "user", "content": "Four."},
        ],
        temperature=0.5,
        top_p=0.25,
        max_completion_tokens=7,
        stop=["x", "y"],
        seed=11,
        top_logprobs=3,
        logprobs=True,
    )
    model, prompt, sampling = engine.asked[-1]
    assert model == "base"
    assert [(one.role, one.content) for one in prompt.messages] == [
        ("system", "Be short."),
        ("user", "One.\nTwo."),
        ("assistant", "Three."),
        ("user", "Four."),
    ]
    assert prompt.seeds == (11,)
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.25, 7)
    assert (sampling.stop, sampling.top_logprobs) == (("x", "y"), 3)


def test_defaults_are_the_public_apis(client: openai.OpenAI, engine: Recording) -> None:
    client.chat.completions.create(model="base", messages=HELLO)
    _, prompt, sampling = engine.asked[-1]
    assert (sampling.n, sampling.temperature, sampling.top_p, sampling.stop) == (1, 1.0, 1.0, ())
    assert sampling.max_tokens == NO_LIMIT
    assert prompt.seeds == ()  # unseeded: every answer is another
    client.completions.create(model="base", prompt="Once")
    assert engine.asked[-1][2].max_tokens == 16


def test_a_reply_can_be_appended_to_the_conversation_as_it_came(client: openai.OpenAI, engine: Recording) -> None:
    reply = client.chat.completions.create(model="base", messages=HELLO)
    client.chat.completions.create(model="base", messages=[*HELLO, reply.choices[0].message, *HELLO])
    assert [one.role for one in engine.asked[-1][1].messages] == ["user", "assistant", "user"]


def test_a_history_may_have_empty_replies_and_names(client: openai.OpenAI, engine: Recording) -> None:
    history: list[Any] = [{"role": "user", "name": "Ann", "content": "Hello"}, {"role": "assistant", "content": ""}]
    client.chat.completions.create(model="base", messages=[*history, *HELLO])
    assert [one.content for one in engine.asked[-1][1].messages][:2] == ["Hello", ""]


def test_numbers_that_float32_has_no_room_for_mean_the_likeliest_token(client: openai.OpenAI, engine: Recording) -> None:
    reply = client.chat.completions.create(model="base", messages=HELLO, temperature=1e-40, n=2)
    assert len(reply.choices) == 2
    assert (engine.asked[-1][2].temperature, engine.asked[-1][2].n) == (0, 1)
    client.chat.completions.create(model="base", messages=HELLO, top_p=1e-50)
    assert 0 < engine.asked[-1][2].top_p < 1e-5


def test_parameters_at_their_neutral_values_are_no_obstacle(client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="base",
        messages=HELLO,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        response_format={"type": "text"},
        tool_choice="none",
        parallel_tool_calls=True,
        store=False,
        metadata={"a": "b"},
        user="somebody",
        extra_body={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "tools": [], "audio": None},
    )


@pytest.mark.parametrize("stream", [False, True])
def test_seeds_repeat_and_every_sample_has_its_own(client: openai.OpenAI, engine: Recording, stream: bool) -> None:
    def seeds(seed: int) -> list[int]:
        engine.asked.clear()
        reply: Any = client.chat.completions.create(model="base", messages=HELLO, seed=seed, n=3, stream=stream)
        if stream:
            list(reply)
        return sorted(seed for _, prompt, _ in engine.asked for seed in prompt.seeds)

    assert seeds(5) == seeds(5)
    assert len(set(seeds(5))) == 3
    assert 5 in seeds(5)
    assert not set(seeds(5)) & set(seeds(6))
    assert all(0 <= seed < 2**63 for seed in seeds(-1))


def test_at_temperature_0_one_sample_is_computed_and_told_n_times(client: openai.OpenAI, engine: Recording) -> None:
    engine.asked.clear()
    reply = client.chat.completions.create(model="base", messages=HELLO, n=3, temperature=0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) == 1
    chunks = list(client.chat.completions.create(model="base", messages=HELLO, n=3, temperature=0, stream=True))
    assert joined(chunks) == {index: reply.choices[0].message.content for index in range(3)}
    assert len(engine.asked) == 2


def joined(chunks: list[ChatCompletionChunk]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


def test_a_stream_adds_up_to_the_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "base", "messages": HELLO, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert joined(chunks) == {choice.index: choice.message.content for choice in whole.choices}
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        mine = [one for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert [one.finish_reason for one in mine] == [None] * (len(mine) - 1) + ["stop"]
        listed = [token for one in mine if one.logprobs for token in one.logprobs.content or []]
        assert choice.logprobs is not None
        assert listed == choice.logprobs.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_logprobs_are_told_with_bytes_and_alternatives(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="base", messages=HELLO, logprobs=True, top_logprobs=2, temperature=0)
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content
    assert content is not None
    assert "".join(token.token for token in content) == reply.choices[0].message.content
    for token in content:
        assert token.logprob <= 0
        assert bytes(token.bytes or []).decode() == token.token
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].token == token.token


def test_a_reply_ends_at_a_stop_string_or_its_limit(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(model="base", messages=HELLO, stop=" seed")
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("one two three", "stop")
    cut = client.chat.completions.create(model="base", messages=HELLO, max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("one two", "length")


async def test_the_asynchronous_client_is_served_likewise(door: Opened) -> None:
    async with door.asynchronous() as client:
        whole = await client.chat.completions.create(model="base", messages=HELLO, seed=1)
        stream = await client.chat.completions.create(model="base", messages=HELLO, seed=1, stream=True)
        chunks = [chunk async for chunk in stream]
        assert joined(chunks) == {0: whole.choices[0].message.content}
        assert [model.id async for model in client.models.list()] == ["base"]


# ---------------------------------------------------------------- completions


def test_completions_continue_raw_text(client: openai.OpenAI, engine: Recording) -> None:
    engine.asked.clear()
    reply = client.completions.create(model="base", prompt=["Once", "Twice"], n=2, seed=4, max_tokens=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in reply.choices} == {"one two three"}
    prompts = [prompt for _, prompt, _ in engine.asked]
    assert [(one.text, one.messages) for one in prompts] == [("Once", ()), ("Twice", ())]
    assert prompts[0].seeds == prompts[1].seeds
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 12


def test_completions_logprobs_have_offsets_and_the_chosen_token(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="base", prompt="Once", logprobs=2, max_tokens=3, temperature=0)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["one", " two", " three"]
    assert logprobs.text_offset == [0, 3, 7]
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs or [], logprobs.top_logprobs or [], strict=True):
        assert top[token] == logprob
        assert len(top) == 2


def test_completions_stream_with_offsets_that_go_on(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "base", "prompt": ["Once", "Twice"], "logprobs": 0, "max_tokens": 3, "temperature": 0}
    whole = client.completions.create(**asked)
    texts, offsets = {0: "", 1: ""}, dict[int, list[int]]({0: [], 1: []})
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            offsets[choice.index] += (choice.logprobs and choice.logprobs.text_offset) or []
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert offsets == {0: [0, 3, 7], 1: [0, 3, 7]}


# ---------------------------------------------------------------- embeddings, models, metrics


def test_embeddings_are_the_embedding_services(client: openai.OpenAI) -> None:
    texts = ["a red thing", "a blue thing", "something else"]
    expected = FakeEmbedder().embed(texts)
    for model, form in (("embedding", "float"), ("fake", "base64")):
        reply = client.embeddings.create(model=model, input=texts, encoding_format=form)  # type: ignore[arg-type]
        vectors = [one.embedding for one in reply.data]
        if form == "base64":
            vectors = [np.frombuffer(base64.b64decode(one), "<f4") for one in vectors]  # type: ignore[arg-type, misc]
        np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert [one.index for one in reply.data] == [0, 1, 2]
    (one,) = client.embeddings.create(
        model="embedding", input="a red thing", dimensions=64
    ).data  # base64, as the client likes it
    np.testing.assert_allclose(one.embedding, expected[0], rtol=1e-6)


def test_models_are_those_of_the_generation_side(client: openai.OpenAI, door: Opened) -> None:
    (model,) = client.models.list()
    assert (model.id, model.owned_by) == ("base", "semievol")
    assert Model.model_validate(client.models.retrieve("base").model_dump()) == model
    assert client.models.retrieve("embedding").model_dump()["root"] == "fake"
    assert httpx.head(f"{door.root}/health").status_code == 200
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody/none")
    assert caught.value.code == "model_not_found"


def test_an_alias_is_listed_by_its_own_name_and_knows_what_it_points_at() -> None:
    class Aliased(FakeEngine):
        def models(self) -> list[ModelInfo]:
            (base,) = super().models()
            evolved = replace(base, name="evolved-1", adapter="artifact:1")
            return [base, evolved, replace(evolved, alias="production")]

    with opened(Aliased(counting)) as door:
        client = door.client()
        assert {one.id: one.model_dump()["parent"] for one in client.models.list()} == {
            "base": None,
            "evolved-1": "base",
            "production": "evolved-1",
        }
        assert client.models.retrieve("production").id == "production"


def test_the_same_greedy_answer_comes_through_the_door_and_over_grpc(client: openai.OpenAI, door: Opened) -> None:
    from semievol.algorithm.types import Message
    from semievol.ports import Sampling

    reply = client.chat.completions.create(model="base", messages=HELLO, temperature=0, logprobs=True, top_logprobs=3)
    direct = GenerationClient(door.generation)
    prompt = Prompt("direct", (Message("user", HELLO[0]["content"]),))
    (generation,) = direct.generate("base", [prompt], Sampling(max_tokens=NO_LIMIT, top_logprobs=3))
    direct.close()
    (completion,) = generation.completions
    assert reply.choices[0].message.content == completion.text
    assert reply.choices[0].logprobs is not None
    assert [one.logprob for one in reply.choices[0].logprobs.content or []] == list(completion.token_logprobs)


def test_metrics_tell_requests_tokens_and_times(client: openai.OpenAI, door: Opened) -> None:
    client.chat.completions.create(model="base", messages=HELLO)
    list(client.chat.completions.create(model="base", messages=HELLO, stream=True))
    httpx.get(f"{door.root}/some/where/else", headers={"Authorization": f"Bearer {KEY}"})
    text = httpx.get(f"{door.root}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['semievol_door_requests_total{path="/v1/chat/completions",status="200"}']) >= 2
    assert float(values['semievol_door_requests_total{path="other",status="404"}']) >= 1
    assert float(values['semievol_door_tokens_total{direction="in"}']) >= 10
    assert float(values['semievol_door_tokens_total{direction="out"}']) >= 16
    assert float(values['semievol_door_first_token_seconds_count{path="/v1/chat/completions"}']) >= 1
    assert float(values["semievol_door_open_streams"]) == 0
    assert float(values["semievol_door_open_requests"]) == 1  # this one
