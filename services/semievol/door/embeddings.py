"""/v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from semievol.common import errors
from semievol.door.errors import Names
from semievol.door.parts import Parts
from semievol.door.requests import Body, Texts, check_list, read
from semievol.door.streams import unless_gone
from semievol.ports import EmbedderInfo, FloatMatrix

EMBEDDING_MODEL = "embedding"  # the name that the embedding model has everywhere, beside its own


class EmbeddingBody(Body):
    """Texts that are longer than the model takes are cut, as everywhere in the suite."""

    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


async def create(request: Request, parts: Parts) -> Response:
    body = await read(request, EmbeddingBody, parts.settings)
    if parts.embedding is None:
        raise errors.NotSupported("This server has no embedding service.")
    texts = [body.input] if isinstance(body.input, str) else body.input
    check_list(texts, "input")
    request.state.names = Names("input")
    info = await parts.embedding.info()
    _check(body, info)
    matrix = await unless_gone(request, parts.embedding.embed(texts))
    # a thousand vectors as text take long enough to hold up everybody's streams
    data = await asyncio.to_thread(_encode, matrix, info.model, body.encoding_format == "base64")
    return Response(data, media_type="application/json")


def _check(body: EmbeddingBody, info: EmbedderInfo) -> None:
    if body.model not in (EMBEDDING_MODEL, info.model):
        raise errors.NotFound(
            f"The model {body.model!r} does not embed here; {info.model} does, also called {EMBEDDING_MODEL}.", field="model"
        )
    if body.dimensions not in (None, info.dimension):
        raise errors.NotSupported(
            f"{info.model} has {info.dimension} dimensions, not {body.dimensions}; leave dimensions out.",
            field="dimensions",
            details={"code": "unsupported_parameter"},
        )


def _encode(matrix: FloatMatrix, model: str, as_base64: bool) -> bytes:
    """Vectors as numbers, or as base64 of little-endian float32. Tokens are not counted: the embedding service does not tell them."""
    rows: list[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in matrix] if as_base64 else matrix.tolist()
    entries = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return json.dumps({"object": "list", "data": entries, "model": model, "usage": usage}).encode()
