"""What the door refuses, and in which words: errors in the public API's shape, keys, limits, and what cannot be honoured."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from semievol.common import errors
from semievol.door.settings import DoorSettings
from semievol.generation.backends.fake import FakeEngine
from semievol.ports import NEVER, Cancel, ChatDelta, Generation, Prompt, Sampling

from tests.doors import HELLO, KEY, Opened, opened, standing_open

CHAT: dict[str, Any] = {"model": "base", "messages": HELLO}
TEXT: dict[str, Any] = {"model": "base", "prompt": "Once"}
VECTORS: dict[str, Any] = {"model": "embedding", "input": "a"}


_HTTP = httpx.Client(timeout=60)  # making one takes longer than asking


class Failing(FakeEngine):
    """Raises `error` where there is one, in the middle of a stream if `after` pieces are to come first."""

    error: errors.SemiEvolError | None = None
    after = 0

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        if self.error:
            raise self.error
        return super().generate(model, prompts, sampling, cancel=cancel)

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        if self.error:
            for _ in range(self.after):
                yield ChatDelta("piece ", ("piece ",), (-1.0,))
            raise self.error
        yield from super().chat(model, prompt, sampling, cancel=cancel)


@pytest.fixture(scope="module")
def engine() -> Failing:
    return Failing(max_model_tokens=200)


@pytest.fixture(scope="module")
def door(engine: Failing) -> Iterator[Opened]:
    with opened(engine, max_body_bytes=50_000) as door:
        yield door


@pytest.fixture
def failing(engine: Failing) -> Iterator[Failing]:
    yield engine
    engine.error, engine.after = None, 0


def post(door: Opened, path: str, body: Any, **headers: str) -> httpx.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    known = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    return _HTTP.post(f"{door.url}{path}", content=data, headers=known | headers)


def problem(response: httpx.Response) -> tuple[int, str | None, str | None]:
    """(status, code, param) of an error that has the API's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith((".", "?")) or ": " in error["message"]
    assert response.headers["x-request-id"]
    return response.status_code, error["code"], error["param"]


# ---------------------------------------------------------------- what is wrong with a request


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/chat/completions", b"{", (400, "invalid_json", None)),
        ("/chat/completions", b"\xff\xfe", (400, "invalid_json", None)),
        (
            "/chat/completions",
            b'{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}',
            (400, "invalid_json", None),
        ),
        ("/chat/completions", [], (400, "invalid_json", None)),
        ("/chat/completions", {"messages": HELLO}, (400, "missing_required_parameter", "model")),
        ("/chat/completions", {"model": "base"}, (400, "missing_required_parameter", "messages")),
        ("/chat/completions", CHAT | {"model": ""}, (400, "invalid_type", "model")),
        ("/chat/completions", CHAT | {"model": "nobody"}, (404, "model_not_found", "model")),
        ("/chat/completions", CHAT | {"messages": []}, (400, None, "messages")),
        ("/chat/completions", CHAT | {"messages": "hi"}, (400, "invalid_type", "messages")),
        ("/chat/completions", CHAT | {"messages": [{"content": "x"}]}, (400, "missing_required_parameter", "messages[0].role")),
        (
            "/chat/completions",
            CHAT | {"messages": [*HELLO, {"role": "tool", "content": "x"}]},
            (400, "unsupported_parameter", "messages[1].role"),
        ),
        ("/chat/completions", CHAT | {"messages": [{"role": "bot", "content": "x"}]}, (400, "invalid_value", "messages[0].role")),
        ("/chat/completions", CHAT | {"messages": [{"role": "user", "content": ""}]}, (400, None, "messages[0].content")),
        ("/chat/completions", CHAT | {"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, (400, None, "messages")),
        (
            "/chat/completions",
            CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            (400, "unsupported_parameter", "messages[0].content[0]"),
        ),
        (
            "/chat/completions",
            CHAT | {"messages": [{"role": "user", "content": "x", "tool_call_id": "7"}]},
            (400, "unsupported_parameter", "messages[0].tool_call_id"),
        ),
        (
            "/chat/completions",
            CHAT | {"messages": [{"role": "user", "content": "long " * 300}]},
            (400, "context_length_exceeded", "messages"),
        ),
        ("/chat/completions", CHAT | {"temperature": 2.5}, (400, None, "temperature")),
        ("/chat/completions", CHAT | {"temperature": "warm"}, (400, "invalid_type", "temperature")),
        ("/chat/completions", CHAT | {"top_p": 1.5}, (400, None, "top_p")),
        ("/chat/completions", CHAT | {"max_tokens": 0}, (400, None, "max_tokens")),
        ("/chat/completions", CHAT | {"max_tokens": 10**12}, (400, None, "max_tokens")),
        ("/chat/completions", CHAT | {"max_completion_tokens": 10**25}, (400, None, "max_completion_tokens")),
        ("/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 10**12}, (400, None, "top_logprobs")),
        ("/completions", TEXT | {"logprobs": 10**12}, (400, None, "logprobs")),
        ("/chat/completions", CHAT | {"max_completion_tokens": -1}, (400, None, "max_completion_tokens")),
        ("/chat/completions", CHAT | {"n": 0}, (400, None, "n")),
        ("/chat/completions", CHAT | {"n": 65}, (400, None, "n")),
        ("/chat/completions", CHAT | {"n": 1000, "stream": True}, (400, None, "n")),
        ("/chat/completions", CHAT | {"stop": [""]}, (400, None, "stop")),
        ("/chat/completions", CHAT | {"stop": 7}, (400, "invalid_type", "stop")),
        ("/chat/completions", CHAT | {"seed": 1.5}, (400, "invalid_type", "seed")),
        ("/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 21}, (400, None, "top_logprobs")),
        ("/chat/completions", CHAT | {"top_logprobs": 2}, (400, None, "top_logprobs")),
        (
            "/chat/completions",
            CHAT | {"stream_options": {"include_usage": "yes"}},
            (400, "invalid_type", "stream_options.include_usage"),
        ),
        ("/chat/completions", CHAT | {"tools": [{"type": "function"}]}, (400, "unsupported_parameter", "tools")),
        (
            "/chat/completions",
            CHAT | {"response_format": {"type": "json_object"}},
            (400, "unsupported_parameter", "response_format"),
        ),
        ("/chat/completions", CHAT | {"logit_bias": {"5": 1}}, (400, "unsupported_parameter", "logit_bias")),
        ("/chat/completions", CHAT | {"frequency_penalty": 0.5}, (400, "unsupported_parameter", "frequency_penalty")),
        ("/chat/completions", CHAT | {"presence_penalty": -1}, (400, "unsupported_parameter", "presence_penalty")),
        ("/chat/completions", CHAT | {"audio": {"voice": "x"}}, (400, "unsupported_parameter", "audio")),
        ("/chat/completions", CHAT | {"top_k": 40}, (400, "unsupported_parameter", "top_k")),
        ("/chat/completions", CHAT | {"temprature": 1}, (400, "unknown_parameter", "temprature")),
        ("/completions", {"model": "base"}, (400, "missing_required_parameter", "prompt")),
        ("/completions", TEXT | {"prompt": ""}, (400, None, "prompt")),
        ("/completions", TEXT | {"prompt": []}, (400, None, "prompt")),
        ("/completions", TEXT | {"prompt": [1, 2, 3]}, (400, "unsupported_parameter", "prompt")),
        ("/completions", TEXT | {"prompt": ["a", ""]}, (400, None, "prompt[1]")),
        ("/completions", TEXT | {"prompt": "long " * 300}, (400, "context_length_exceeded", "prompt")),
        ("/completions", TEXT | {"prompt": ["a", "long " * 300]}, (400, "context_length_exceeded", "prompt[1]")),
        ("/completions", TEXT | {"prompt": ["a"] * 129}, (400, None, "prompt")),
        ("/completions", TEXT | {"prompt": 7}, (400, "invalid_type", "prompt")),
        ("/completions", TEXT | {"temperature": -1e-9}, (400, None, "temperature")),
        ("/completions", TEXT | {"logprobs": 21}, (400, None, "logprobs")),
        ("/completions", TEXT | {"logprobs": -1}, (400, None, "logprobs")),
        ("/completions", TEXT | {"echo": True}, (400, "unsupported_parameter", "echo")),
        ("/completions", TEXT | {"best_of": 3}, (400, "unsupported_parameter", "best_of")),
        ("/completions", TEXT | {"suffix": "end"}, (400, "unsupported_parameter", "suffix")),
        ("/embeddings", {"model": "embedding"}, (400, "missing_required_parameter", "input")),
        ("/embeddings", VECTORS | {"model": "base"}, (404, "model_not_found", "model")),
        ("/embeddings", VECTORS | {"input": []}, (400, None, "input")),
        ("/embeddings", VECTORS | {"input": ["a", " "]}, (400, None, "input[1]")),
        ("/embeddings", VECTORS | {"input": [[1, 2]]}, (400, "unsupported_parameter", "input")),
        ("/embeddings", VECTORS | {"dimensions": 3}, (400, "unsupported_parameter", "dimensions")),
        ("/embeddings", VECTORS | {"encoding_format": "int8"}, (400, "invalid_type", "encoding_format")),
        ("/nothing", {}, (404, "unknown_url", None)),
        ("/models", {}, (405, "method_not_allowed", None)),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_in_its_own_words(
    door: Opened, path: str, body: Any, expected: tuple[int, str | None, str | None]
) -> None:
    assert problem(post(door, path, body)) == expected


@pytest.mark.parametrize("body", [b"x" * 60_000, b" " * 2_000_000])
def test_a_body_that_is_too_long_is_refused_whether_it_says_its_length_or_not(door: Opened, body: bytes) -> None:
    assert problem(post(door, "/chat/completions", body))[:2] == (413, "request_too_large")

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    response = httpx.post(f"{door.url}/chat/completions", content=pieces(), headers=headers, timeout=60)
    assert problem(response)[:2] == (413, "request_too_large")
    assert post(door, "/chat/completions", CHAT).status_code == 200


def test_a_body_that_is_not_declared_as_json_is_refused(door: Opened) -> None:
    """A web page can send other kinds to this machine without asking the browser's user."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = post(door, "/chat/completions", CHAT, **{"Content-Type": kind})
        assert problem(response)[:2] == (415, "unsupported_media_type")


def test_a_body_that_never_comes_does_not_keep_a_place() -> None:
    with opened(body_timeout_s=0.2) as door:
        host, _, port = door.root.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer {KEY}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
            answer = connection.recv(65536).decode()
        assert answer.startswith("HTTP/1.1 408")


# ---------------------------------------------------------------- what goes wrong behind the door

_BEHIND: list[tuple[errors.SemiEvolError, int, str]] = [
    (errors.InvalidInput("Wrong."), 400, ""),
    (errors.NotFound("No such adapter.", field="model"), 404, "model_not_found"),
    (errors.NotFound("Gone."), 404, "not_found"),
    (errors.AlreadyExists("Taken."), 409, "already_exists"),
    (errors.Conflict("Not now."), 409, "conflict"),
    (errors.Busy("Full.", retry_after_s=2.5), 429, "rate_limit_exceeded"),
    (errors.Unavailable("Down."), 503, "unavailable"),
    (errors.DeadlineExceeded("Late."), 504, "timeout"),
    (errors.Corrupt("Bits."), 500, "corrupt"),
    (errors.StorageError("Disk."), 503, "storage_error"),
    (errors.NotAllowed("Key of the endpoint."), 403, "not_allowed"),
    (errors.NotSupported("Cannot."), 400, "not_supported"),
    (errors.InternalError("Bug."), 500, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code"), _BEHIND, ids=[f"{type(one[0]).__name__}-{one[1]}" for one in _BEHIND])
@pytest.mark.parametrize("stream", [False, True])
def test_every_error_of_the_services_has_its_status(
    door: Opened, failing: Failing, error: errors.SemiEvolError, status: int, code: str, stream: bool
) -> None:
    failing.error = error
    response = post(door, "/chat/completions", CHAT | {"stream": stream})
    assert problem(response)[:2] == (status, code or None)
    assert response.headers.get("retry-after") == ("3" if isinstance(error, errors.Busy) else None)
    assert response.json()["error"]["message"] == error.message


def test_the_official_client_raises_its_own_classes(door: Opened, failing: Failing) -> None:
    with door.client() as client:
        for error, expected in (
            (errors.Busy("Full."), openai.RateLimitError),
            (errors.Unavailable("Down."), openai.InternalServerError),
            (errors.InvalidInput("Wrong."), openai.BadRequestError),
            (errors.NotAllowed("No."), openai.PermissionDeniedError),
        ):
            failing.error = error
            with pytest.raises(expected):
                client.chat.completions.create(**CHAT)


@pytest.mark.parametrize("n", [1, 3])
def test_an_error_in_the_middle_of_a_stream_is_an_event_and_the_last_one(door: Opened, failing: Failing, n: int) -> None:
    failing.error, failing.after = errors.Unavailable("The engine died."), 2
    response = post(door, "/chat/completions", CHAT | {"stream": True, "n": n})
    assert response.status_code == 200
    last = response.text.rstrip("\n").split("\n\n")[-1]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.partition("data: ")[2])["error"]["code"] == "unavailable"
    assert "[DONE]" not in response.text
    with door.client() as client, pytest.raises(openai.APIError, match="The engine died"):
        list(client.chat.completions.create(**CHAT, stream=True))


def test_a_service_that_is_away_is_told_as_such_and_health_says_so() -> None:
    with standing_open(generation="127.0.0.1:9", embedding="", api_keys=KEY) as door:
        there = Opened(door, "")
        health = httpx.get(f"{there.root}/health")
        assert problem(health)[:2] == (503, "unavailable")
        assert problem(post(there, "/chat/completions", CHAT))[:2] == (503, "unavailable")
        assert problem(post(there, "/embeddings", VECTORS))[:2] == (400, "not_supported")


# ---------------------------------------------------------------- keys and limits


def test_every_path_but_health_asks_for_the_key(door: Opened) -> None:
    paths = [route.path for route in door.door.app.routes]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/metrics", "/health"} <= set(paths)
    for path in [*paths, "/", "/docs", "/openapi.json", "/v1/none", "/health/", "//health", "/HEALTH"]:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}):
                url = f"{door.root}{path.replace('{name:path}', 'base')}"
                response = _HTTP.request(method, url, headers=headers)
                if path == "/health":
                    assert response.status_code in (200, 405)
                else:
                    assert response.status_code == 401, (method, path, headers)
    assert problem(httpx.get(f"{door.url}/models"))[:2] == (401, "invalid_api_key")
    assert httpx.get(f"{door.root}/health").json() == {"status": "serving"}


def test_any_of_several_keys_opens_and_metrics_may_be_open(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("third\n\nfourth\n")
    with opened(api_keys="first, second", api_keys_file=file, open_metrics=True) as door:
        for key in ("first", "second", "third", "fourth"):
            assert [model.id for model in door.client(key).models.list()] == ["base"]
        for key in ("fifth", "firs", "first, second"):
            with pytest.raises(openai.AuthenticationError):
                door.client(key).models.list()
        assert httpx.get(f"{door.root}/metrics").status_code == 200


def test_without_a_key_everybody_on_this_machine_may_ask(caplog: pytest.LogCaptureFixture) -> None:
    with opened(api_keys="") as door:
        assert [model.id for model in door.client("whatever").models.list()] == ["base"]
    assert "OPEN" not in caplog.text


def test_an_open_door_that_others_can_reach_is_shouted_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        with standing_open(address="0.0.0.0:0", generation="127.0.0.1:9", api_keys="key"):
            pass
        assert "THE DOOR IS OPEN" not in caplog.text
        with standing_open(address="0.0.0.0:0", generation="127.0.0.1:9"):
            pass
        assert "THE DOOR IS OPEN" in caplog.text


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: DoorSettings(api_keys_file=path / "none"), errors.NotFound),
        (lambda path: DoorSettings(api_keys_file=path / "empty"), errors.InvalidInput),
        (lambda path: DoorSettings(api_keys="a b"), errors.InvalidInput),
    ],
)
def test_keys_that_cannot_be_had_leave_the_door_shut(
    tmp_path: Path, make: Callable[[Path], DoorSettings], expected: type[errors.SemiEvolError]
) -> None:
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(expected):
        make(tmp_path).keys()


def test_a_port_in_use_is_told_as_such() -> None:
    with standing_open(generation="127.0.0.1:9") as door:
        port = door.url.removesuffix("/v1").rpartition(":")[2]
        with pytest.raises(errors.Unavailable, match="Cannot listen"), standing_open(address=f"127.0.0.1:{port}"):
            pass
