"""The embedding service as an `Embedder`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semievol.client.paging import pages
from semievol.common.grpc_client import Caller
from semievol.embedding import core, wire
from semievol.embedding.v1 import embedding_service_pb2 as pb
from semievol.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from semievol.ports import NEVER, Cancel, EmbedderInfo, FloatMatrix

PAGE_TEXTS = 256  # eight batches of 32: the round trip is a small part of it, and a cancelled call loses little


class EmbeddingClient:
    """Safe to share between threads. `close` it."""

    def __init__(self, address: str, *, deadline_s: float = 600.0) -> None:
        self._caller = Caller("embedding", address, deadline_s=deadline_s)
        self._stub = pb_grpc.EmbeddingServiceStub(self._caller.channel)
        self._limits: pb.GetInfoResponse | None = None  # asked once

    def info(self) -> EmbedderInfo:
        return wire.embedder_info(self._get_info(NEVER))

    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        """Texts travel longest first, so that every page, and every batch in it, holds texts of like length."""
        core.check_texts(texts)
        if self._limits is None:
            self._limits = self._get_info(cancel)
        matrix = np.empty((len(texts), self._limits.dimension), dtype=np.float32)
        page_texts = min(PAGE_TEXTS, self._limits.max_batch_count)
        for page in pages(core.longest_first(texts), lambda i: len(texts[i].encode()), page_texts):
            request = pb.EmbedRequest(texts=[texts[i] for i in page])
            response: pb.EmbedResponse = self._caller.unary(self._stub.Embed, request, cancel=cancel)
            matrix[list(page)] = wire.matrix(response.embeddings)
        return matrix

    def close(self) -> None:
        self._caller.close()

    def _get_info(self, cancel: Cancel) -> pb.GetInfoResponse:
        response: pb.GetInfoResponse = self._caller.unary(self._stub.GetInfo, pb.GetInfoRequest(), cancel=cancel)
        return response
