"""A double of a text-embeddings-inference server: a real HTTP server with the answers, limits and errors of version 1.9.3, and vectors of
one of our embedders. Its sources are the server's public API description and source; where versions differ, 1.9.3 is meant."""

from __future__ import annotations

from typing import Any

import numpy as np
from semievol.ports import Embedder

from tests.servers.web import Answer, Call, HttpDouble

OVERLOADED = Answer(429, {"error": "Model is overloaded", "error_type": "Overloaded"})
INFERENCE_FAILED = Answer(424, {"error": "Inference failed", "error_type": "Backend"})


class TeiDouble(HttpDouble):
    """`info` may be changed while it runs, as a restart with other options would. Vectors have norm 3 unless `normalize` asks for 1."""

    def __init__(self, embedder: Embedder, *, api_key: str = "", payload_limit: int = 2_000_000, **info: Any) -> None:
        super().__init__()
        self.embedder = embedder
        self.api_key = api_key
        self.payload_limit = payload_limit
        self.healthy = True
        self.info: dict[str, Any] = {
            "model_id": embedder.info().model,
            "model_sha": None,
            "model_dtype": "float32",
            "model_type": {"embedding": {"pooling": "mean"}},
            "max_concurrent_requests": 512,
            "max_input_length": 256,
            "max_batch_tokens": 16384,
            "max_batch_requests": 4,
            "max_client_batch_size": 32,
            "auto_truncate": True,
            "tokenization_workers": 2,
            "version": "1.9.3",
            "sha": None,
            "docker_label": None,
        } | info

    def answer(self, call: Call) -> Answer:
        if call.path in ("/health", "/", "/ping") and call.method == "GET":
            return Answer() if self.healthy else Answer(503, {"error": "unhealthy", "error_type": "Unhealthy"})
        if call.path not in ("/info", "/embed"):
            return Answer(404)
        if self.api_key and call.headers.get("authorization") != f"Bearer {self.api_key}":
            return Answer(401)
        if call.method != {"/info": "GET", "/embed": "POST"}[call.path]:
            return Answer(405)
        return Answer(body=self.info) if call.path == "/info" else self._embed(call)

    def _embed(self, call: Call) -> Answer:
        if call.headers.get("content-type") != "application/json":
            return Answer(415, "Expected request with `Content-Type: application/json`")
        if len(call.body) > self.payload_limit:
            return Answer(413, "Failed to buffer the request body: length limit exceeded")
        request = call.json()
        inputs = request["inputs"] if isinstance(request["inputs"], list) else [request["inputs"]]
        most = self.info["max_client_batch_size"]
        if not inputs:
            return Answer(400, {"error": "`inputs` cannot be empty", "error_type": "Empty"})
        if len(inputs) > most:
            return _invalid(f"batch size {len(inputs)} > maximum allowed batch size {most}")
        if not all(inputs):
            return _invalid("Input validation error: `inputs` cannot be empty")
        longest, length = self.info["max_input_length"], max(len(text.split()) for text in inputs)
        if length > longest and not request.get("truncate", self.info["auto_truncate"]):
            return _invalid(f"Input validation error: `inputs` must have less than {longest} tokens. Given: {length}")
        matrix = self.embedder.embed([" ".join(text.split()[:longest]) for text in inputs])
        return vectors(matrix if request.get("normalize", True) else 3 * matrix)


def vectors(matrix: Any) -> Answer:
    """What /embed answers: JSON knows no NaN, so those become null."""
    rows = [[None if np.isnan(value) else value for value in row] for row in np.asarray(matrix).tolist()]
    return Answer(body=rows)


def _invalid(words: str) -> Answer:
    return Answer(422, {"error": words, "error_type": "Validation"})
