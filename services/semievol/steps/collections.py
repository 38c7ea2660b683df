"""The labeled vectors in the retrieval service: a cache that is rebuilt from the artifact whenever it is not what it should be."""

from __future__ import annotations

from collections.abc import Sequence

from semievol.algorithm.types import Row
from semievol.common import errors
from semievol.common.keys import sha256_hex
from semievol.ports import CollectionSpec, FloatMatrix, VectorIndex, VectorRecord


def ensure(index: VectorIndex, rows: Sequence[Row], vectors: FloatMatrix) -> str:
    """The name of a collection that holds exactly these rows. Its name is their content, so two runs share it."""
    digest = sha256_hex(vectors.tobytes() + "\n".join(row.id for row in rows).encode())
    spec = CollectionSpec(f"labeled_{digest[:32]}", vectors.shape[1])
    try:
        if index.describe(spec.name).row_count == len(rows):
            return spec.name
        index.drop(spec.name)  # half-filled, or rows were lost behind our back
    except errors.NotFound:
        pass
    index.create(spec)
    index.upsert(spec.name, [VectorRecord(row.id, vector.tolist()) for row, vector in zip(rows, vectors, strict=True)])
    return spec.name
