"""The labeled vectors in the retrieval service: a cache, looked at before and after it is used, and rebuilt from the artifact
whenever it is not what it should be.

A collection's name is its content, so runs share it. They do so without hurting each other: rows are only ever written, never
dropped, since whoever completes a collection writes the very same ones. One that cannot be made right by that (foreign rows,
another dimension) is left to itself and another name taken. What no run needs is dropped with the step that made it (`semievol gc`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from semievol.algorithm import semievol
from semievol.algorithm.types import Row
from semievol.common import errors
from semievol.common.keys import sha256_hex
from semievol.ports import CollectionInfo, CollectionSpec, FloatMatrix, VectorIndex, VectorQuery, VectorRecord

T = TypeVar("T")

_NAMES = 4  # of collections tried for one library
_ATTEMPTS = 4  # at a step's searches, each after a rebuild
_SPOT_CHECKS = 32  # rows that have to find themselves
_SAME = 1e-3  # cosine of equal vectors, through float16 if need be


def name(rows: Sequence[Row], vectors: FloatMatrix, number: int = 0) -> str:
    """Of the collection that holds these rows; `number` counts the names that were spoilt."""
    digest = sha256_hex(vectors.tobytes() + "\n".join(row.id for row in rows).encode())
    return f"labeled_{digest[:32]}" + (f"_{number}" if number else "")


def names(rows: Sequence[Row], vectors: FloatMatrix) -> list[str]:
    """All that a collection of these rows may have."""
    return [name(rows, vectors, number) for number in range(_NAMES)]


class Library:
    """The labeled rows ([n]) and their vectors ([n, d]) behind an index."""

    def __init__(self, index: VectorIndex, rows: Sequence[Row], vectors: FloatMatrix) -> None:
        self._index = index
        self._rows = rows
        self._vectors = vectors
        self._place = {row.id: i for i, row in enumerate(rows)}
        self._collection = ""

    def searched(self, work: Callable[[], T]) -> T:
        """What `work` returns, which calls `nearest`: from a collection that held exactly this library before and after all its searches.
        Else the collection is made right and the work done again. Raises Unavailable where the store never keeps it so long.
        """
        for _ in range(_ATTEMPTS):
            reason: errors.SemiEvolError | None = None
            try:
                self._collection = self._ensure()
                done = work()
                if self._is_whole(self._collection):
                    return done
            except (errors.NotFound, errors.InvalidInput) as error:  # dropped by somebody, or made anew with another dimension
                reason = error
        if isinstance(reason, errors.InvalidInput):
            raise reason
        raise errors.Unavailable(
            f"The vector store changed {self._collection or name(self._rows, self._vectors)} {_ATTEMPTS} times while it was searched; "
            "see who drops its collections or deletes their rows."
        )

    def nearest(self, rows: Sequence[Row], vectors: FloatMatrix, k: int) -> dict[str, list[str]]:
        """Eq. 3, within `searched`. Raises NotFound where the collection holds other rows than it should."""
        found = semievol.nearest_labeled(self._index, self._collection, rows, vectors, k)
        for row_id, ids in found.items():
            expected = min(k, len(self._rows) - (row_id in self._place))
            if len(ids) != expected or not all(one in self._place for one in ids):
                raise errors.NotFound(f"Rows of {self._collection} are not there any more, or not ours.")
        return found

    def _ensure(self) -> str:
        """The name of a collection that holds exactly these rows, completed or made if need be."""
        for number in range(_NAMES):
            spec = CollectionSpec(name(self._rows, self._vectors, number), self._vectors.shape[1])
            try:
                if self._is_right(spec.name):
                    return spec.name
                self._index.create(spec)
                self._index.upsert(
                    spec.name, [VectorRecord(row.id, vector) for row, vector in zip(self._rows, self._vectors, strict=True)]
                )
                if self._is_right(spec.name):
                    return spec.name
            except errors.AlreadyExists:  # of another dimension or index, or not ours at all
                continue
        raise errors.Unavailable(
            f"The vector store does not keep what is written into {name(self._rows, self._vectors)}; drop the collections of that name."
        )

    def _is_right(self, collection: str) -> bool:
        """Whether it is of our kind, with as many rows, and some rows, evenly chosen, find themselves."""
        try:
            if not self._is_whole(collection):
                return False
            chosen = range(0, len(self._rows), max(1, len(self._rows) // _SPOT_CHECKS))
            queries = [VectorQuery(vector=self._vectors[i]) for i in chosen]
            hits = self._index.search(collection, queries, 1)
        except errors.NotFound:
            return False
        return all(
            len(found) == 1
            and found[0].id in self._place
            and found[0].score > 1 - _SAME
            and float(self._vectors[self._place[found[0].id]] @ self._vectors[i]) > 1 - _SAME
            for i, found in zip(chosen, hits, strict=True)
        )

    def _is_whole(self, collection: str) -> bool:
        wanted = CollectionInfo(CollectionSpec(collection, self._vectors.shape[1]), len(self._rows))
        return self._index.describe(collection) == wanted
