"""What every Embedder does: the fake, the real backend, a text-embeddings-inference server, and the gRPC client in front of each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from semievol.client.embedding import EmbeddingClient
from semievol.common import errors
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.backends.sentence_transformers import SentenceTransformersEmbedder
from semievol.embedding.backends.tei import TeiEmbedder
from semievol.embedding.server import service
from semievol.embedding.settings import EmbeddingSettings
from semievol.ports import Embedder

from tests.running import running
from tests.servers.tei import TeiDouble

TEXTS = ["The lift in block C is stuck.", "My invoice is wrong.", "The lift in block C is stuck again.", "x"]


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformersEmbedder:
    return SentenceTransformersEmbedder("bundled:minilm-l6", device="cpu")


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        "client-fake",
        "tei-fake",
        "client-tei-fake",
        pytest.param("minilm", marks=pytest.mark.models),
        pytest.param("client-minilm", marks=pytest.mark.models),
        pytest.param("tei-minilm", marks=pytest.mark.models),
    ],
)
def embedder(request: pytest.FixtureRequest) -> Iterator[Embedder]:
    backend: Embedder = request.getfixturevalue("minilm") if "minilm" in request.param else FakeEmbedder()
    with ExitStack() as stack:
        if "tei" in request.param:
            double = stack.enter_context(TeiDouble(backend, max_client_batch_size=3).running())
            backend = TeiEmbedder(double.url)
            stack.callback(backend.close)
        if request.param.startswith("client"):
            address = stack.enter_context(running(service(EmbeddingSettings(max_batch_count=3), backend)))
            backend = EmbeddingClient(address)
            stack.callback(backend.close)
        yield backend


def test_vectors_are_float32_of_norm_one_and_of_the_stated_dimension(embedder: Embedder) -> None:
    matrix = embedder.embed(TEXTS)
    assert matrix.dtype == np.float32
    assert matrix.shape == (len(TEXTS), embedder.info().dimension)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-6)


def test_rows_are_in_input_order_whatever_the_lengths(embedder: Embedder) -> None:
    matrix = embedder.embed(TEXTS)
    for text, row in zip(TEXTS, matrix, strict=True):
        np.testing.assert_allclose(embedder.embed([text])[0], row, atol=1e-5)  # padding changes the last bits


def test_the_same_call_gives_the_same_bits(embedder: Embedder) -> None:
    assert np.array_equal(embedder.embed(TEXTS), embedder.embed(TEXTS))


def test_like_texts_are_nearer_than_unlike_ones(embedder: Embedder) -> None:
    matrix = embedder.embed(TEXTS)
    assert matrix[0] @ matrix[2] > matrix[0] @ matrix[1] + 0.2


def test_no_texts_give_an_empty_matrix(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, embedder.info().dimension)


def test_a_text_of_punctuation_only_has_a_vector(embedder: Embedder) -> None:
    np.testing.assert_allclose(np.linalg.norm(embedder.embed(["?!"])), 1, atol=1e-6)


def test_a_very_long_text_is_truncated_not_refused(embedder: Embedder) -> None:
    assert embedder.embed(["word " * 20_000, "short"]).shape[0] == 2


@pytest.mark.parametrize("bad", ["", " \n", "\ud800"])
def test_a_bad_text_is_named_by_its_place_in_the_whole_input(embedder: Embedder, bad: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        embedder.embed([*TEXTS, bad])
    assert caught.value.field == "texts[4]"


def test_a_cancelled_call_raises_cancelled(embedder: Embedder) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(errors.Cancelled):
        embedder.embed(TEXTS * 200, cancel=cancel)


def test_info_carries_the_digest_of_the_weights(embedder: Embedder) -> None:
    info = embedder.info()
    assert info == embedder.info()
    assert info.model
    assert len(info.sha256) == 64
