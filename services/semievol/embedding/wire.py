"""Plain values <-> messages of semievol.embedding.v1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semievol.common.vectors import pack, unpack
from semievol.embedding.v1 import embedding_service_pb2 as pb
from semievol.ports import EmbedderInfo, FloatMatrix


def embeddings(matrix: FloatMatrix) -> list[pb.Embedding]:
    """[n, d] -> n messages."""
    return [pb.Embedding(values=pack(row)) for row in matrix]


def matrix(messages: Sequence[pb.Embedding]) -> FloatMatrix:
    """n >= 1 messages of one dimension -> [n, d]."""
    return np.stack([unpack(message.values, field="embeddings") for message in messages])


def info_response(info: EmbedderInfo, max_batch_count: int) -> pb.GetInfoResponse:
    return pb.GetInfoResponse(
        model=info.model,
        model_sha256=info.sha256,
        dimension=info.dimension,
        max_input_tokens=info.max_tokens,
        max_batch_count=max_batch_count,
        server=info.server,
    )


def embedder_info(response: pb.GetInfoResponse) -> EmbedderInfo:
    return EmbedderInfo(response.model, response.model_sha256, response.dimension, response.max_input_tokens, response.server)
