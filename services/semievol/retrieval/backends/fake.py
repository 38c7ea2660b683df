"""A test double: exact search in memory by numpy, BM25 by its textbook formula."""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from semievol.common import errors
from semievol.ports import CollectionInfo, CollectionSpec, FloatMatrix, Hit, VectorQuery, VectorRecord
from semievol.retrieval import core

_WORD = re.compile(r"\w+")
_K1, _B = 1.2, 0.75  # Lucene's and Milvus' defaults


@dataclass
class _Collection:
    spec: CollectionSpec
    vectors: dict[str, FloatMatrix] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class FakeVectorIndex:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._collections: dict[str, _Collection] = {}
        self._lock = threading.Lock()

    def create(self, spec: CollectionSpec) -> None:
        core.check_spec(spec)
        with self._lock:
            core.check_same(self._collections.setdefault(spec.name, _Collection(spec)).spec, spec)

    def upsert(self, name: str, records: Sequence[VectorRecord]) -> int:
        with self._lock:
            collection = self._collection(name)
            matrix = core.check_records(collection.spec, records)
            for record, vector in zip(records, matrix, strict=True):
                collection.vectors[record.id] = vector
                collection.texts[record.id] = record.text
        return len(records)

    def search(self, name: str, queries: Sequence[VectorQuery], limit: int) -> list[list[Hit]]:
        with self._lock:
            collection = self._collection(name)
            core.check_queries(collection.spec, queries, limit)
            return [core.rank(self._hits(collection, query, i), limit, query.exclude_id) for i, query in enumerate(queries)]

    def describe(self, name: str) -> CollectionInfo:
        with self._lock:
            collection = self._collection(name)
            return CollectionInfo(collection.spec, len(collection.vectors))

    def drop(self, name: str) -> None:
        with self._lock:
            self._collections.pop(core.check_name(name), None)

    def _collection(self, name: str) -> _Collection:
        if core.check_name(name) not in self._collections:
            raise errors.NotFound(f"There is no collection {name}.", field="collection")
        return self._collections[name]

    def _hits(self, collection: _Collection, query: VectorQuery, i: int) -> list[Hit]:
        if query.text is not None:
            return _bm25(collection.texts, query.text)
        if not collection.vectors:
            return []
        scores = np.stack(list(collection.vectors.values())) @ core.query_vector(collection.spec, query, i)
        return [Hit(row_id, float(score)) for row_id, score in zip(collection.vectors, scores.clip(-1, 1), strict=True)]


def _bm25(texts: dict[str, str], query: str) -> list[Hit]:
    """Only texts that share a word with the query are hits."""
    words = {row_id: Counter(_WORD.findall(text.lower())) for row_id, text in texts.items()}
    average = sum(count.total() for count in words.values()) / max(1, len(words))
    scores: Counter[str] = Counter()
    for word in _WORD.findall(query.lower()):
        matching = {row_id: count for row_id, count in words.items() if word in count}
        idf = math.log(1 + (len(words) - len(matching) + 0.5) / (len(matching) + 0.5))
        for row_id, count in matching.items():
            length = 1 - _B + _B * count.total() / average
            scores[row_id] += idf * count[word] * (_K1 + 1) / (count[word] + _K1 * length)  # type: ignore[assignment]
    return [Hit(row_id, score) for row_id, score in scores.items()]
