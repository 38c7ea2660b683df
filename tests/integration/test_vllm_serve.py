"""A real `vllm serve` as an endpoint of ours, and our door beside it: the same requests, the same answers.

Behind the door is transformers, so what is compared is two implementations of the model, of the chat template and of the API.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.embedding import server as embedding_server
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.settings import EmbeddingSettings
from semievol.generation import server as generation_server
from semievol.generation.backends.openai import OpenAIEngine
from semievol.generation.backends.transformers import TransformersEngine
from semievol.generation.settings import GenerationSettings
from semievol.ports import BASE_MODEL, Prompt, Sampling, ScoreRequest

from tests.doors import standing_open
from tests.running import running
from tests.servers.vllm_serve import vllm_serve

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

TOLERANCE = 0.002  # nats a token, as docs/vllm.md says
ASKED: list[Any] = [
    [{"role": "user", "content": "Which is a colour: stone, blue, seven?"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where is the key? " * 9}],
    [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}, {"role": "user", "content": "And then?"}],
]


@dataclass(frozen=True)
class Side:
    client: openai.OpenAI
    model: str


@dataclass(frozen=True)
class Both:
    theirs: Side
    ours: Side
    url: str
    engine: TransformersEngine


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, wide_model: Path) -> Iterator[Both]:
    root = tmp_path_factory.mktemp("serve")
    with ExitStack() as stack:
        url = stack.enter_context(vllm_serve(wide_model, "tiny", root / "vllm.log"))
        engine = TransformersEngine(str(wide_model), cache=root / "cache", device="cpu", precision="float32")
        generation = stack.enter_context(running(generation_server.service(GenerationSettings(), engine)))
        embedding = stack.enter_context(running(embedding_server.service(EmbeddingSettings(), FakeEmbedder())))
        door = stack.enter_context(standing_open(generation=generation, embedding=embedding))
        options: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 120.0}
        yield Both(
            Side(openai.OpenAI(base_url=url, **options), "tiny"),
            Side(openai.OpenAI(base_url=door.url, **options), BASE_MODEL),
            url,
            engine,
        )


def whole(token: str) -> str:
    """A token's text without pieces of characters: vLLM shows them as nothing, or as what they become, we as U+FFFD."""
    return token.replace("\ufffd", "")


def chat(side: Side, messages: Any, **more: Any) -> Any:
    return side.client.chat.completions.create(
        model=side.model, messages=messages, **({"temperature": 0, "max_tokens": 12} | more)
    )


@pytest.mark.parametrize("messages", ASKED)
def test_a_chat_is_answered_the_same(both: Both, messages: Any) -> None:
    theirs, ours = (chat(side, messages, logprobs=True, top_logprobs=3) for side in (both.theirs, both.ours))
    one, other = theirs.choices[0], ours.choices[0]
    assert other.message.content == one.message.content
    assert other.finish_reason == one.finish_reason
    assert ours.usage.prompt_tokens == theirs.usage.prompt_tokens
    for mine, its in zip(other.logprobs.content, one.logprobs.content, strict=False):  # theirs lists the end-of-turn token, too
        assert whole(mine.token) == whole(its.token)
        assert mine.logprob == pytest.approx(its.logprob, abs=TOLERANCE)
        assert [whole(top.token) for top in mine.top_logprobs] == [whole(top.token) for top in its.top_logprobs]


def test_a_stream_is_the_same(both: Both) -> None:
    texts, reasons = [], []
    for side in (both.theirs, both.ours):
        pieces = [piece for piece in chat(side, ASKED[0], stream=True) if piece.choices]
        texts.append("".join(piece.choices[0].delta.content or "" for piece in pieces))
        reasons.append(pieces[-1].choices[0].finish_reason)
    assert texts[0] == texts[1] != ""
    assert reasons[0] == reasons[1]


def test_raw_text_is_continued_the_same(both: Both) -> None:
    replies = [
        side.client.completions.create(model=side.model, prompt=["Once upon", "The key is"], temperature=0, max_tokens=8).choices
        for side in (both.theirs, both.ours)
    ]
    assert [one.text for one in replies[0]] == [one.text for one in replies[1]]


def test_stop_strings_and_limits_end_replies_the_same(both: Both) -> None:
    whole = chat(both.theirs, ASKED[0]).choices[0].message.content
    stop = whole[len(whole) // 2 :][:4]
    for more in ({"stop": [stop]}, {"max_tokens": 1}, {"max_completion_tokens": 3, "max_tokens": openai.omit}):
        theirs, ours = (chat(side, ASKED[0], **more).choices[0] for side in (both.theirs, both.ours))
        assert (ours.message.content, ours.finish_reason) == (theirs.message.content, theirs.finish_reason)


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"temperature": 3},
        {"top_p": 0},
        {"n": 0},
        {"max_tokens": -1},
        {"messages": [{"role": "user", "content": "long " * 700}]},
    ],
)
def test_what_is_wrong_is_refused_by_both_with_the_same_status(both: Both, wrong: dict[str, Any]) -> None:
    statuses = []
    for side in (both.theirs, both.ours):
        with pytest.raises(openai.APIStatusError) as caught:
            side.client.chat.completions.create(**({"model": side.model, "messages": ASKED[0], "temperature": 0} | wrong))
        statuses.append(caught.value.status_code)
    assert statuses[0] == statuses[1] == 400


def test_an_unknown_model_is_not_found_by_both(both: Both) -> None:
    for side in (both.theirs, both.ours):
        with pytest.raises(openai.NotFoundError):
            side.client.chat.completions.create(model="nobody", messages=ASKED[0])


def test_it_serves_as_an_endpoint_of_ours(both: Both) -> None:
    """GPT-4o-mini's row of the paper, with another server: answers and their log-probabilities, not scores."""
    endpoint = OpenAIEngine(both.url, "tiny")
    try:
        prompts = [Prompt(f"p{i}", tuple(Message(**one) for one in messages)) for i, messages in enumerate(ASKED)]
        theirs = endpoint.generate(BASE_MODEL, prompts, Sampling(max_tokens=12))
        ours = both.engine.generate(BASE_MODEL, prompts, Sampling(max_tokens=12))
        for one, other in zip(theirs, ours, strict=True):
            assert one.completions[0].text == other.completions[0].text
            assert [whole(token) for token in one.completions[0].tokens] == [
                whole(token) for token in other.completions[0].tokens
            ]
            assert one.completions[0].token_logprobs == pytest.approx(other.completions[0].token_logprobs, abs=TOLERANCE)
            assert one.prompt_tokens == other.prompt_tokens
        seeded = [Prompt("s", prompts[0].messages, (7, 8))]
        sampling = Sampling(2, 1.0, max_tokens=8)
        assert endpoint.generate(BASE_MODEL, seeded, sampling) == endpoint.generate(BASE_MODEL, seeded, sampling)
        with pytest.raises(errors.NotSupported, match="entropy_source: generated"):
            endpoint.score(BASE_MODEL, [ScoreRequest("s", prompts[0].messages, "x")])
    finally:
        endpoint.close()
