"""What can go wrong with an OpenAI-compatible endpoint, and what its users are told. The endpoint is a double (tests/servers/openai_api.py)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.backends.openai import OpenAIEngine
from semievol.generation.server import engine as configured
from semievol.generation.settings import GenerationSettings
from semievol.ports import BASE_MODEL, FinishReason, Prompt, Sampling

from tests.servers.openai_api import OpenAIDouble
from tests.servers.web import Answer

CHAT = "/v1/chat/completions"
GREEDY = Sampling(max_tokens=8)
SAMPLED = Sampling(n=2, temperature=1.0, max_tokens=8)
PROMPT = Prompt("row 7", (Message("user", "Which colour?"),))


@pytest.fixture
def server() -> Iterator[OpenAIDouble]:
    with OpenAIDouble(FakeEngine()).running() as double:
        yield double


def client(server: OpenAIDouble, **options: Any) -> OpenAIEngine:
    return OpenAIEngine(server.endpoint, "fake", **({"max_retries": 0} | options))


def bodies(server: OpenAIDouble) -> list[Any]:
    return [call.json() for call in server.called(CHAT)]


def chat_answer(text: str, tokens: list[tuple[str, float]], reason: str = "stop", **message: Any) -> Answer:
    listed = [
        {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []} for token, logprob in tokens
    ]
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text} | message}
    return Answer(body={"id": "1", "object": "chat.completion", "choices": [choice | {"logprobs": {"content": listed}}]})


# ---------------------------------------------------------------- what is asked


def test_every_seed_is_a_call_and_only_what_says_something_is_sent(server: OpenAIDouble) -> None:
    client(server).generate(BASE_MODEL, [Prompt("a", PROMPT.messages, (5, 2**62))], SAMPLED)
    sent = sorted(bodies(server), key=lambda body: body["seed"])
    assert [body["seed"] for body in sent] == [5, 2**62]
    plain = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "top_p": 1.0}
    assert sent[0].keys() == {"model", "messages", "temperature", "max_tokens", "logprobs", "seed", *plain}
    assert sent[0] | plain == sent[0]  # the model's own distribution, whatever the server's habits
    assert sent[0]["logprobs"] is True


def test_a_limit_as_long_as_the_model_is_not_sent() -> None:
    """vLLM refuses a limit that the prompt leaves no room for; without one it takes the room that there is."""
    with OpenAIDouble(FakeEngine(), max_model_len=100).running() as server:
        client(server).generate(BASE_MODEL, [PROMPT], Sampling(max_tokens=100))
        client(server).generate(BASE_MODEL, [PROMPT], Sampling(max_tokens=99))
        assert [body.get("max_tokens") for body in bodies(server)] == [None, 99]


def test_without_seeds_all_samples_are_one_call(server: OpenAIDouble) -> None:
    client(server).generate(BASE_MODEL, [PROMPT], SAMPLED)
    (sent,) = bodies(server)
    assert sent["n"] == 2
    assert "seed" not in sent


def test_a_server_that_wants_the_limit_under_its_new_name_gets_it_from_then_on() -> None:
    with OpenAIDouble(FakeEngine(), refuses={"max_tokens"}).running() as server:
        engine = client(server, parallel_calls=1)
        engine.generate(BASE_MODEL, [PROMPT, PROMPT], GREEDY)
        assert ["max_completion_tokens" in body for body in bodies(server)] == [False, True, True]


def test_a_server_that_counts_no_tokens_in_streams_is_not_asked_to() -> None:
    with OpenAIDouble(FakeEngine(), refuses={"stream_options"}).running() as server:
        engine = client(server)
        for _ in range(2):
            assert "".join(delta.text for delta in engine.chat(BASE_MODEL, PROMPT, GREEDY)).startswith("Answer: ")
        assert ["stream_options" in body for body in bodies(server)] == [True, False, False]


def test_a_server_that_knows_openais_parameters_only_is_sent_no_others() -> None:
    with OpenAIDouble(FakeEngine(), refuses={"top_k"}).running() as server:
        engine = client(server, parallel_calls=1)
        engine.generate(BASE_MODEL, [PROMPT, PROMPT], GREEDY)
        assert [("top_k" in body, "min_p" in body) for body in bodies(server)] == [(True, True), (False, False), (False, False)]


def test_calls_at_the_same_time_are_bounded(server: OpenAIDouble) -> None:
    engine, at_work, most, lock = client(server, parallel_calls=3), 0, 0, threading.Lock()
    right = server.answer

    def slow(call: Any) -> Answer:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.05)
        with lock:
            at_work -= 1
        return right(call)

    server.answer = slow  # type: ignore[method-assign]
    assert len(engine.generate(BASE_MODEL, [PROMPT] * 12, GREEDY)) == 12
    assert most == 3


# ---------------------------------------------------------------- what is understood


def test_an_end_of_turn_token_is_none_of_the_replys(server: OpenAIDouble) -> None:
    engine = client(server)
    server.fail(CHAT, chat_answer("Answer: B", [("Answer:", -0.1), (" B", -0.2), ("<|im_end|>", -3.0)]))
    (generation,) = engine.generate(BASE_MODEL, [PROMPT], GREEDY)
    assert generation.completions[0].tokens == ("Answer:", " B")
    assert generation.completions[0].token_logprobs == (-0.1, -0.2)


@pytest.mark.parametrize(
    ("text", "tokens", "kept"),
    [
        ("a b", ["a", " b", "\n", "END"], 2),  # the tokens of a stop string
        ("a", ["a", " bEND"], 1),
        ("a b", ["a", " bEND"], 2),  # a token that begins in the text is one of its own
        ("", ["<|im_end|>"], 0),
        ("a b", [" a", " b", "</s>"], 2),  # white space that the server left off
        ("é", ["\xc3", "\xa9"], 2),  # the texts of tokens that are pieces of a character may be anything
        ("a b", ["other", "words"], 2),
    ],
)
def test_the_tokens_of_a_reply_are_those_that_its_text_is_made_of(
    server: OpenAIDouble, text: str, tokens: list[str], kept: int
) -> None:
    engine = client(server)
    server.fail(CHAT, chat_answer(text, [(token, -1.0) for token in tokens]))
    (generation,) = engine.generate(BASE_MODEL, [PROMPT], GREEDY)
    assert len(generation.completions[0].tokens) == kept


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.LENGTH),
        ("tool_calls", FinishReason.LENGTH),
    ],
)
def test_whatever_did_not_end_by_itself_is_unfinished(server: OpenAIDouble, reason: str, expected: FinishReason) -> None:
    engine = client(server)
    server.fail(CHAT, chat_answer("a", [("a", -1.0)], reason))
    (generation,) = engine.generate(BASE_MODEL, [PROMPT], GREEDY)
    assert generation.completions[0].finish_reason is expected


def test_a_refusal_is_an_empty_reply(server: OpenAIDouble) -> None:
    engine = client(server)
    body = chat_answer("", [], content=None, refusal="No.").body
    body["choices"][0]["logprobs"] = None
    server.fail(CHAT, Answer(body=body))
    (generation,) = engine.generate(BASE_MODEL, [PROMPT], GREEDY)
    assert generation.completions[0].text == ""


def test_logprobs_are_never_above_zero(server: OpenAIDouble) -> None:
    engine = client(server)
    server.fail(CHAT, chat_answer("a", [("a", 1e-7)]))
    (generation,) = engine.generate(BASE_MODEL, [PROMPT], GREEDY)
    assert generation.completions[0].token_logprobs == (0.0,)


# ---------------------------------------------------------------- identity


def identity(**options: Any) -> tuple[str, str]:
    with OpenAIDouble(FakeEngine(), **options).running() as server:
        (model,) = client(server).models()
        return model.base_sha256, model.engine


def test_the_digest_is_of_the_name_and_its_owner_and_the_engine_names_the_endpoint() -> None:
    plain, other = identity(), identity(owned_by="vllm")
    assert identity()[0] == plain[0] != other[0]
    assert plain[1].startswith("openai/tests@http://127.0.0.1:")
    assert plain[1].endswith("/v1")


# ---------------------------------------------------------------- faults


def test_what_passes_is_tried_again(server: OpenAIDouble) -> None:
    engine = client(server, max_retries=3)
    busy = Answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"})
    server.fail(CHAT, busy, busy, Answer(503, headers={"Retry-After": "0.01"}))
    assert engine.generate(BASE_MODEL, [PROMPT], GREEDY)


def test_a_server_that_dies_and_comes_back_is_waited_for(server: OpenAIDouble) -> None:
    engine = client(server, max_retries=3)
    server.die()
    timer = threading.Timer(0.3, server.start)
    timer.start()
    assert engine.generate(BASE_MODEL, [PROMPT], GREEDY)
    timer.join()


def test_an_endpoint_that_stays_away_is_unavailable_and_named(server: OpenAIDouble) -> None:
    engine = client(server)
    server.die()
    for call in (lambda: engine.generate(BASE_MODEL, [PROMPT], GREEDY), lambda: list(engine.chat(BASE_MODEL, PROMPT, GREEDY))):
        with pytest.raises(errors.Unavailable, match=rf"{server.endpoint} cannot be reached .*is it running") as caught:
            call()
        assert caught.value.field == "engine"
    with pytest.raises(errors.Unavailable):
        engine.check()


TOO_LONG = {"message": "This model's maximum context length is 512 tokens.", "code": "context_length_exceeded"}


@pytest.mark.parametrize(
    ("answer", "error", "words", "field"),
    [
        (Answer(400, {"error": TOO_LONG}), errors.InvalidInput, "'row 7' is too long", "prompts[0].messages"),
        (Answer(400, {"error": {"message": "bad stop"}}), errors.InvalidInput, "refuses prompt 'row 7': bad stop", "prompts[0]"),
        (Answer(422, {"detail": "Unsupported fields: logprobs"}), errors.NotSupported, "no log-probabilities", "engine"),
        (chat_answer("a", []), errors.NotSupported, "no log-probabilities", "engine"),
        (Answer(401, {"error": {"message": "key?"}}), errors.NotAllowed, "SEMIEVOL_OPENAI_API_KEY", "engine"),
        (Answer(404, {"error": {"message": "no such model"}}), errors.NotFound, "no such model", "engine"),
        (Answer(429, {"error": {"message": "quota"}}, {"Retry-After": "9"}), errors.Busy, "overloaded: quota", "engine"),
        (Answer(502, "<html></html>", kind="text/html"), errors.Unavailable, r"\(502: text/html\)", "engine"),
        (Answer(200, "<html></html>", kind="text/html"), errors.Unavailable, "no chat completion", "engine"),
        (Answer(200, {"object": "list"}), errors.Unavailable, "no chat completion", "engine"),
        (Answer(200, b"{", kind="application/json"), errors.Unavailable, "no chat completion", "engine"),
        (Answer(307, headers={"Location": "http://127.0.0.2/"}), errors.InvalidInput, "redirects to http://127.0.0.2/", "engine"),
        (Answer(hang_up=True), errors.Unavailable, "cannot be reached", "engine"),
        (Answer(delay_s=1.0), errors.DeadlineExceeded, r"within 0\.4 seconds", "engine"),
    ],
)
def test_a_fault_is_told_by_its_class_and_the_servers_words(
    server: OpenAIDouble, answer: Answer, error: type[errors.SemiEvolError], words: str, field: str
) -> None:
    engine = client(server, timeout_s=0.4)
    server.fail(CHAT, answer)
    with pytest.raises(error, match=words) as caught:
        engine.generate(BASE_MODEL, [PROMPT], GREEDY)
    assert caught.value.field == field
    if isinstance(caught.value, errors.Busy):
        assert caught.value.retry_after_s == 9


def test_an_answer_without_logprobs_is_not_taken(server: OpenAIDouble) -> None:
    server.logprobs = False
    with pytest.raises(errors.NotSupported, match="no log-probabilities"):
        client(server).generate(BASE_MODEL, [PROMPT], GREEDY)
    with pytest.raises(errors.NotSupported, match="no log-probabilities"):
        list(client(server).chat(BASE_MODEL, PROMPT, GREEDY))


def test_a_stream_that_breaks_off_is_unavailable(server: OpenAIDouble) -> None:
    engine = client(server)
    piece = '{"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -1}]}}]}'
    server.fail(CHAT, Answer(lines=(piece,)))
    with pytest.raises(errors.Unavailable, match="before its end"):
        list(engine.chat(BASE_MODEL, PROMPT, GREEDY))
    server.fail(CHAT, Answer(lines=("not json",)))
    with pytest.raises(errors.Unavailable):
        list(engine.chat(BASE_MODEL, PROMPT, GREEDY))


def test_cancelling_does_not_wait_for_answers(server: OpenAIDouble) -> None:
    engine, cancel = client(server), threading.Event()
    server.fail(CHAT, Answer(delay_s=3.0))
    threading.Timer(0.2, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(errors.Cancelled):
        engine.generate(BASE_MODEL, [PROMPT], GREEDY, cancel=cancel)
    assert time.monotonic() - started < 2
    engine.close()


# ---------------------------------------------------------------- the wrong endpoint


def test_a_model_that_is_not_served_is_not_found_with_the_names_that_are(server: OpenAIDouble) -> None:
    with pytest.raises(errors.NotFound, match="does not serve other; it serves fake") as caught:
        OpenAIEngine(server.endpoint, "other")
    assert caught.value.field == "model"


def test_a_model_that_goes_away_fails_the_check(server: OpenAIDouble) -> None:
    engine = client(server)
    engine.check()
    server.names = ["another"]
    with pytest.raises(errors.NotFound, match="it serves another"):
        engine.check()


@pytest.mark.parametrize("path", ["", "/v2"])
def test_a_wrong_path_is_told_at_the_start(server: OpenAIDouble, path: str) -> None:
    with pytest.raises(errors.NotFound, match="ends in /v1") as caught:
        OpenAIEngine(server.url + path, "fake")
    assert caught.value.field == "engine"


def test_a_page_of_html_is_no_endpoint(server: OpenAIDouble) -> None:
    server.fail("/v1/models", Answer(body="<html></html>", kind="text/html"))
    with pytest.raises(errors.InvalidInput, match="no OpenAI-compatible endpoint") as caught:
        client(server)
    assert caught.value.field == "engine"


# ---------------------------------------------------------------- settings


def test_the_settings_choose_this_backend_and_its_key(
    server: OpenAIDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "SEMIEVOL_OPENAI_API_KEY", "SEMIEVOL_OPENAI_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    server.api_key = "a key"
    settings = GenerationSettings(endpoint=server.endpoint, endpoint_only=True, model="fake")
    with pytest.raises(errors.NotAllowed, match="SEMIEVOL_OPENAI_API_KEY_FILE"):
        configured(settings)
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    assert isinstance(configured(settings), OpenAIEngine)
    (tmp_path / "key").write_text("another key\n")
    monkeypatch.setenv("SEMIEVOL_OPENAI_API_KEY_FILE", str(tmp_path / "key"))  # ours comes first
    with pytest.raises(errors.NotAllowed) as caught:
        configured(settings)
    assert "another key" not in str(caught.value)
