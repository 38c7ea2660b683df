"""What can go wrong with a text-embeddings-inference server, and what its users are told. The server is a double (tests/servers/tei.py)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from semievol.common import errors
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.backends.tei import TeiEmbedder
from semievol.embedding.server import embedder as configured
from semievol.embedding.settings import EmbeddingSettings
from semievol.ports import NEVER, Cancel, FloatMatrix

from tests.servers.tei import INFERENCE_FAILED, OVERLOADED, TeiDouble, vectors
from tests.servers.web import Answer

TEXTS = [f"The lift in block {number} is stuck." for number in range(40)]
GATEWAY = Answer(502, "<html><body>Bad gateway</body></html>", kind="text/html")


class OtherWeights(FakeEmbedder):
    """The same name, other vectors."""

    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        return np.roll(super().embed(texts), 7, axis=1)


@pytest.fixture
def server() -> Iterator[TeiDouble]:
    with TeiDouble(FakeEmbedder()).running() as double:
        yield double


def client(server: TeiDouble, **options: Any) -> TeiEmbedder:
    return TeiEmbedder(server.url, **({"backoff_s": 0.01} | options))


# ---------------------------------------------------------------- limits


def test_calls_keep_within_the_servers_batch_size_and_ask_for_what_we_need(server: TeiDouble) -> None:
    embedder = client(server)
    np.testing.assert_allclose(embedder.embed(TEXTS), FakeEmbedder().embed(TEXTS), atol=1e-6)
    bodies = [call.json() for call in server.called("/embed")][1:]  # the first is the canary
    assert [len(body["inputs"]) for body in bodies] == [32, 8]
    assert all(body["truncate"] is True and body["normalize"] is True for body in bodies)


def test_a_limit_that_became_smaller_is_met_by_halves_and_then_known(server: TeiDouble) -> None:
    embedder = client(server)
    server.info["max_client_batch_size"] = 5
    np.testing.assert_allclose(embedder.embed(TEXTS), FakeEmbedder().embed(TEXTS), atol=1e-6)
    before = len(server.called("/embed"))
    embedder.embed(TEXTS)
    assert len(server.called("/embed")) == before + 8  # 40 texts in fives, none of them refused


def test_long_texts_go_in_several_bodies_below_the_payload_limit(server: TeiDouble) -> None:
    embedder = client(server)
    assert embedder.embed(["word " * 30_000] * 20).shape == (20, 64)
    sizes = [len(call.body) for call in server.called("/embed")]
    assert max(sizes) <= 1_010_000 < sum(sizes)


def test_a_payload_limit_below_the_default_is_met_by_halves(server: TeiDouble) -> None:
    server.payload_limit = 1000
    np.testing.assert_allclose(client(server).embed(TEXTS), FakeEmbedder().embed(TEXTS), atol=1e-6)


def test_a_text_that_the_server_refuses_alone_is_named(server: TeiDouble) -> None:
    server.payload_limit = 1000
    with pytest.raises(errors.InvalidInput, match="length limit exceeded") as caught:
        client(server).embed([*TEXTS, "long " * 1000, *TEXTS])
    assert caught.value.field == "texts[40]"


# ---------------------------------------------------------------- identity


def digest(**info: Any) -> str:
    with TeiDouble(info.pop("weights", FakeEmbedder()), **info).running() as server:
        return client(server).info().sha256


def test_the_digest_changes_with_what_the_server_says_of_its_model() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"model_id": "other"},
        {"model_sha": "main"},
        {"model_dtype": "float16"},
        {"model_type": {"embedding": {"pooling": "cls"}}},
        {"version": "1.9.4"},
    ]
    digests = [digest(**change) for change in changes]
    assert len(set(digests)) == 5
    assert digests[0] == digests[5]  # another version of the server is no other model


def test_the_digest_tells_other_weights_of_the_same_name() -> None:
    assert digest() != digest(weights=OtherWeights())
    assert digest(model_sha="main") != digest(model_sha="main", weights=OtherWeights())


def test_the_digest_withstands_rounding(server: TeiDouble) -> None:
    plain = client(server).info().sha256
    server.fail(
        "/embed", vectors(FakeEmbedder().embed(["Which office should look after the broken street lamp, and how soon?"]) * 1.0005)
    )
    assert client(server).info().sha256 == plain


def test_another_model_in_the_middle_is_a_conflict(server: TeiDouble) -> None:
    embedder = client(server)
    server.info["model_id"] = "another/model"
    with pytest.raises(errors.Conflict, match=r"another/model.*before fake") as caught:
        embedder.embed(TEXTS)
    assert caught.value.field == "embedding"
    with pytest.raises(errors.Conflict):
        embedder.check()
    server.info["model_id"] = "fake"
    assert embedder.embed(TEXTS).shape == (40, 64)


def test_other_weights_under_the_same_name_are_noticed_after_a_restart(server: TeiDouble) -> None:
    embedder = client(server)
    embedder.embed(TEXTS)
    server.die()
    server.start()
    embedder.embed(TEXTS)  # the same weights
    server.die()
    server.embedder = OtherWeights()
    server.start()
    with pytest.raises(errors.Conflict, match="another vector"):
        embedder.embed(TEXTS[:1])


def test_a_quiet_connection_costs_one_look_at_the_server_a_call(server: TeiDouble) -> None:
    embedder = client(server)
    embedder.embed(TEXTS[:1])
    before = len(server.calls)
    embedder.embed(TEXTS[:1])
    assert [call.path for call in server.calls[before:]] == ["/embed", "/info"]


def test_another_dimension_is_a_conflict(server: TeiDouble) -> None:
    embedder = client(server)
    server.embedder = FakeEmbedder(32)
    with pytest.raises(errors.Conflict, match="32 numbers, before they had 64"):
        embedder.embed(TEXTS)


# ---------------------------------------------------------------- faults


def test_a_server_that_dies_and_comes_back_is_waited_for(server: TeiDouble) -> None:
    embedder = client(server, backoff_s=0.1)
    server.fail("/embed", Answer(hang_up=True))
    server.die()
    timer = threading.Timer(0.3, server.start)
    timer.start()
    np.testing.assert_allclose(embedder.embed(TEXTS), FakeEmbedder().embed(TEXTS), atol=1e-6)
    timer.join()


def test_a_server_that_stays_away_is_unavailable_and_named(server: TeiDouble) -> None:
    embedder = client(server)
    server.die()
    with pytest.raises(errors.Unavailable, match=rf"{server.url} cannot be reached .*is it running") as caught:
        embedder.embed(TEXTS)
    assert caught.value.field == "embedding"


@pytest.mark.parametrize("fault", [OVERLOADED, INFERENCE_FAILED, GATEWAY, Answer(503), Answer(hang_up=True)], ids=str)
def test_what_passes_is_tried_again(server: TeiDouble, fault: Answer) -> None:
    embedder = client(server)
    server.fail("/embed", fault, fault, fault, fault)
    np.testing.assert_allclose(embedder.embed(TEXTS), FakeEmbedder().embed(TEXTS), atol=1e-6)


def test_a_storm_of_429_ends_as_busy_with_the_servers_hint(server: TeiDouble) -> None:
    embedder = client(server)
    server.fail("/embed", *[OVERLOADED] * 4, Answer(429, OVERLOADED.body, {"Retry-After": "7"}))
    with pytest.raises(errors.Busy, match=r"Model is overloaded \(Overloaded\)") as caught:
        embedder.embed(TEXTS)
    assert caught.value.retry_after_s == 7


def test_retry_after_is_honoured(server: TeiDouble) -> None:
    embedder = client(server)
    server.fail("/embed", Answer(429, OVERLOADED.body, {"Retry-After": "0.4"}))
    started = time.monotonic()
    embedder.embed(["one"])
    assert time.monotonic() - started >= 0.4


def test_a_model_that_fails_again_and_again_is_unavailable_in_the_servers_words(server: TeiDouble) -> None:
    embedder = client(server)
    server.fail("/embed", *[INFERENCE_FAILED] * 5)
    with pytest.raises(errors.Unavailable, match=r"424: Inference failed \(Backend\)"):
        embedder.embed(TEXTS)


def test_a_page_of_html_is_not_printed(server: TeiDouble) -> None:
    embedder = client(server)
    server.fail("/embed", *[GATEWAY] * 5)
    with pytest.raises(errors.Unavailable, match="502: text/html") as caught:
        embedder.embed(TEXTS)
    assert "<html>" not in caught.value.message


def test_a_slow_server_runs_into_the_deadline(server: TeiDouble) -> None:
    embedder = client(server, timeout_s=0.3)
    server.fail("/embed", Answer(delay_s=1.0))
    with pytest.raises(errors.DeadlineExceeded, match=r"within 0\.3 seconds"):
        embedder.embed(TEXTS)


def test_cancelling_ends_a_pause_at_once(server: TeiDouble) -> None:
    embedder, cancel = client(server), threading.Event()
    server.fail("/embed", Answer(429, OVERLOADED.body, {"Retry-After": "20"}))
    threading.Timer(0.2, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(errors.Cancelled):
        embedder.embed(TEXTS, cancel=cancel)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (vectors([[0.5] * 64]), errors.NotSupported, "norm 4"),  # sqrt(64 * 0.25)
        (vectors([[float("nan")] * 64]), errors.Unavailable, "not finite"),
        (vectors([[1.0] * 64] * 2), errors.Unavailable, r"shape \(2, 64\)"),
        (Answer(body=[[1.0, 2.0], [3.0]]), errors.Unavailable, "not with vectors"),
        (Answer(body={"data": []}), errors.Unavailable, "not with vectors"),
        (Answer(body="<html></html>", kind="text/html"), errors.Unavailable, "text/html"),
        (Answer(418, "I am a teapot"), errors.Unavailable, "418: I am a teapot"),
    ],
    ids=["norm", "nan", "count", "ragged", "object", "html", "other status"],
)
def test_vectors_that_are_none_are_refused(server: TeiDouble, answer: Answer, error: type[Exception], words: str) -> None:
    embedder = client(server)
    server.fail("/embed", answer)
    with pytest.raises(error, match=words):
        embedder.embed(["one"])


# ---------------------------------------------------------------- the wrong server


@pytest.mark.parametrize(
    ("path", "answer", "error", "words"),
    [
        ("/info", Answer(404), errors.NotFound, "has no /info"),
        ("/info", Answer(body={"version": 1}), errors.InvalidInput, "no text-embeddings-inference server"),
        ("/info", Answer(body="<html></html>", kind="text/html"), errors.InvalidInput, "answers text/html"),
        ("/info", Answer(422, "?"), errors.Unavailable, "422"),
        ("/info", Answer(308, headers={"Location": "https://b/info"}), errors.InvalidInput, "redirects /info to https://b/info"),
        ("/embed", Answer(403), errors.NotAllowed, "SEMIEVOL_TEI_API_KEY"),
        ("/embed", Answer(422, {"detail": "?"}), errors.InvalidInput, "refuses an ordinary text"),
    ],
)
def test_a_wrong_server_is_told_at_the_start(
    server: TeiDouble, path: str, answer: Answer, error: type[errors.SemiEvolError], words: str
) -> None:
    server.fail(path, answer)
    with pytest.raises(error, match=words) as caught:
        client(server)
    assert caught.value.field == "embedding"


@pytest.mark.parametrize("kind", [{"reranker": {"id2label": {}}}, {"embedding": {"pooling": "splade"}}])
def test_a_server_of_another_kind_of_model_is_refused(kind: Any) -> None:
    with (
        TeiDouble(FakeEmbedder(), model_type=kind).running() as server,
        pytest.raises(errors.InvalidInput, match="dense vectors"),
    ):
        client(server)


@pytest.mark.parametrize("url", ["http://", "http://a:b", "http://me:secret@host", "http://host/?key=secret", "http://a b"])
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        TeiEmbedder(url)
    assert caught.value.field == "embedding"
    assert "secret@" not in caught.value.message


# ---------------------------------------------------------------- settings


def test_a_url_as_the_model_chooses_this_backend_and_the_key_comes_from_a_file(
    server: TeiDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.api_key = "a key"
    with pytest.raises(errors.NotAllowed, match="SEMIEVOL_TEI_API_KEY_FILE"):
        configured(EmbeddingSettings(model=server.url))
    (tmp_path / "key").write_text("a key\n")
    monkeypatch.setenv("SEMIEVOL_TEI_API_KEY_FILE", str(tmp_path / "key"))
    embedder = configured(EmbeddingSettings(model=server.url))
    assert isinstance(embedder, TeiEmbedder)
    assert embedder.info().model == server.url
    monkeypatch.setenv("SEMIEVOL_TEI_API_KEY", "another key")  # the variable itself comes first
    with pytest.raises(errors.NotAllowed):
        configured(EmbeddingSettings(model=server.url))


def test_a_key_is_in_no_message(server: TeiDouble) -> None:
    server.api_key = "right"
    with pytest.raises(errors.NotAllowed) as caught:
        client(server, api_key=SecretStr("wr0ng"))
    assert "wr0ng" not in str(caught.value)
