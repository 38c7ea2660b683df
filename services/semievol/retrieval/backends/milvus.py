"""Milvus by URI: Milvus Lite in this process by file path, or a server; the same calls either way.

What a collection is, is read back from its schema, so that it is right whoever made it and whenever.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from semievol.common import errors
from semievol.ports import CollectionInfo, CollectionSpec, Hit, IndexType, VectorQuery, VectorRecord
from semievol.retrieval import core
from semievol.retrieval.backends.milvus_connection import Connection

_ROWS_PER_CALL = 1000  # 1.5 MB at 384 dimensions; Milvus refuses messages over 64 MB
_MAX_FETCH = 16_384  # Milvus' most hits for a query
_HITS_PER_CALL = 200_000  # 20 MB where ids are short; a thousand queries that all tie would else ask for 16 million
_BM25_SINCE = (2, 5)
# Of unit vectors, as ours are, the inner product is the cosine, and cheaper: Milvus Lite normalises all rows anew for each search by COSINE.
_METRIC = "IP"
_METRICS = (_METRIC, "COSINE")  # the other one is of collections that an earlier version made
_HNSW_BUILD = {"M": 16, "efConstruction": 200}  # Milvus' documented middle values
_FLUSH_ROWS = 256  # Milvus Lite reads rows that are not flushed one by one: 4000 cost 0.5 s of every call, after a flush 4 ms
_HNSW_EF = 128  # candidates looked at while searching; more is slower and nearer to exact


class MilvusIndex:
    """Safe to share between threads. `close` it: a Milvus Lite file is locked while it is open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loaded: set[str] = set()  # collections that this process has asked Milvus to load
        self._indexes: dict[str, tuple[IndexType, str]] = {}  # with metric; asking is slow in Milvus Lite: it counts the rows
        self._unflushed: Counter[str] = Counter()  # rows written since the last flush, Milvus Lite only

    def create(self, spec: CollectionSpec) -> None:
        core.check_spec(spec)
        if spec.text_search:
            self._check_text_search()
        self._indexes.pop(spec.name, None)  # another process may have made it anew with another index
        existing = self._find(spec.name)
        if existing is None:
            self._create(spec)
        else:
            core.check_same(existing, spec)

    def upsert(self, name: str, records: Sequence[VectorRecord]) -> int:
        spec = self._spec(name)
        matrix = core.check_records(spec, records)
        rows: list[dict[str, Any]] = [{"id": records[i].id, "vector": matrix[i]} for i in core.last_of_each_id(records)]
        if spec.text_search:
            texts = {record.id: record.text for record in records}
            rows = [row | {"text": texts[row["id"]]} for row in rows]
        for start in range(0, len(rows), _ROWS_PER_CALL):
            self._connection.call("upsert", name, data=rows[start : start + _ROWS_PER_CALL])
        self._unflushed[name] += len(rows)
        return len(records)

    def search(self, name: str, queries: Sequence[VectorQuery], limit: int) -> list[list[Hit]]:
        spec = self._spec(name)
        core.check_queries(spec, queries, limit)
        self._make_ready(name)
        metric = self._indexes.get(name, (spec.index, _METRIC))[1]
        dense = [i for i, query in enumerate(queries) if query.vector is not None]
        lexical = [i for i, query in enumerate(queries) if query.text is not None]
        found: dict[int, list[Hit]] = {}

        def by_vector(rows: list[int], fetch: int) -> list[list[Hit]]:
            vectors = [core.query_vector(spec, queries[i], i) for i in rows]
            ef = {"ef": max(_HNSW_EF, 2 * fetch)} if spec.index is IndexType.HNSW else {}
            return self._fetch(name, "vector", vectors, fetch, {"metric_type": metric, "params": ef})

        def by_text(rows: list[int], fetch: int) -> list[list[Hit]]:
            return self._fetch(name, "sparse", [queries[i].text for i in rows], fetch, {"metric_type": "BM25", "params": {}})

        _search_to_the_last_tie(dense, by_vector, queries, limit, found)
        _search_to_the_last_tie(lexical, by_text, queries, limit, found)
        return [found[i] for i in range(len(queries))]

    def describe(self, name: str) -> CollectionInfo:
        spec = self._spec(name)
        self._make_ready(name)
        counted = self._connection.call("query", name, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return CollectionInfo(spec, int(counted[0]["count(*)"]))

    def drop(self, name: str) -> None:
        core.check_name(name)
        self._forget(name)
        self._connection.call("drop_collection", name)

    def server(self) -> str:
        return self._connection.server()

    def close(self) -> None:
        self._connection.close()

    def _spec(self, name: str) -> CollectionSpec:
        spec = self._find(core.check_name(name))
        if spec is None:
            raise errors.NotFound(f"There is no collection {name}.", field="collection")
        return spec

    def _find(self, name: str) -> CollectionSpec | None:
        """What the collection is. None: not there, or its maker died before the index (vectors are a cache: it is made anew)."""
        fields = self._fields(name)
        index = fields and (self._indexes.get(name) or self._index(name))
        if fields is None or index is None:
            self._forget(name)
            return None
        self._indexes[name] = index
        return CollectionSpec(name, fields[0], index[0], fields[1])

    def _fields(self, name: str) -> tuple[int, bool] | None:
        """(dimension, whether it has text search) of a collection, whatever its index; None where there is none."""
        if not self._connection.call("has_collection", name):
            return None
        described = self._connection.call("describe_collection", name)
        fields = {field["name"]: field for field in described["fields"]}
        if "id" not in fields or "vector" not in fields:
            raise _foreign(name)
        return int(fields["vector"]["params"]["dim"]), "sparse" in fields

    def _index(self, name: str) -> tuple[IndexType, str] | None:
        if "vector" not in self._connection.call("list_indexes", name):
            return None
        described = self._connection.call("describe_index", name, index_name="vector")
        kind, metric = described["index_type"].lower(), described["metric_type"].upper()
        if kind not in set(IndexType) or metric not in _METRICS:
            raise _foreign(name)
        return IndexType(kind), metric

    def _create(self, spec: CollectionSpec) -> None:
        """Makes the collection, or finishes one that a killed process left without its index. Others may be making the same one."""
        self._forget(spec.name)
        schema, indexes = _schema(self._connection.client, spec)
        wanted, there = (spec.dimension, spec.text_search), self._fields(spec.name)
        try:
            if there is not None and there != wanted:
                self._connection.call("drop_collection", spec.name)
            if there != wanted:
                self._connection.call("create_collection", spec.name, schema=schema, consistency_level="Strong")
            # Not together with the collection: pymilvus would wait half a second for an index over no rows.
            self._connection.call("create_index", spec.name, indexes, sync=False)
            self._make_ready(spec.name)
        except errors.SemiEvolError:
            existing = self._find(spec.name)
            if existing is None:
                raise
            core.check_same(existing, spec)  # somebody else was faster

    def _make_ready(self, name: str) -> None:
        """Before rows are read: the collection has to be loaded, once in this process, and in Milvus Lite flushed to be fast."""
        if name not in self._loaded:
            self._connection.call("load_collection", name)
            self._loaded.add(name)
        if self._connection.lite_path is not None and self._unflushed[name] >= _FLUSH_ROWS:
            del self._unflushed[name]
            self._connection.call("flush", name)

    def _forget(self, name: str) -> None:
        self._loaded.discard(name)
        self._indexes.pop(name, None)
        self._unflushed.pop(name, None)

    def _fetch(self, name: str, field: str, data: list[Any], limit: int, params: dict[str, Any]) -> list[list[Hit]]:
        answers = self._connection.call(
            "search",
            name,
            data=data,
            anns_field=field,
            limit=limit,
            search_params=params,
            output_fields=["id"],  # with none named, Milvus Lite returns every field, vectors included
            consistency_level="Strong",
        )
        # BM25 comes as a distance (negative) from Milvus Lite and as a score (positive) from a server.
        sign = abs if field == "sparse" else float
        return [[Hit(hit["id"], sign(hit["distance"])) for hit in hits] for hits in answers]

    def _check_text_search(self) -> None:
        """Raises NotSupported where the server is too old. Milvus Lite has BM25, in this process or as a server of its own."""
        if self._connection.lite_path is not None:
            return
        version = self._connection.server_version()
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < _BM25_SINCE:
            raise errors.NotSupported(
                f"BM25 text search needs Milvus 2.5 or later; the server at {self._connection.where} is {version}.",
                field="collection.text_search",
            )


def _foreign(name: str) -> errors.AlreadyExists:
    return errors.AlreadyExists(f"Collection {name} was not made by this service; take another name.", field="collection")


def _search_to_the_last_tie(
    rows: list[int],
    fetch: Callable[[list[int], int], list[list[Hit]]],
    queries: Sequence[VectorQuery],
    limit: int,
    found: dict[int, list[Hit]],
) -> None:
    """Fills `found` for these queries. Where more rows tie with the last hit than were fetched, fetches more, so that ids decide."""
    # One to see whether the last score differs, one for the excluded row. Milvus Lite reads all of a hit's row, its vector too.
    count = min(limit + 1 + any(queries[i].exclude_id for i in rows), _MAX_FETCH)
    while rows:
        undecided = []
        per_call = max(1, _HITS_PER_CALL // count)
        parts = [rows[start : start + per_call] for start in range(0, len(rows), per_call)]
        for i, hits in ((i, hits) for part in parts for i, hits in zip(part, fetch(part, count), strict=True)):
            found[i] = core.rank(hits, limit, queries[i].exclude_id)
            full = len(hits) == count and len(found[i]) == limit
            if full and count < _MAX_FETCH and core.rounded(hits[-1].score) == found[i][-1].score:
                undecided.append(i)
        rows, count = undecided, min(4 * count, _MAX_FETCH)


def _schema(client: Any, spec: CollectionSpec) -> tuple[Any, Any]:
    """The fields and the indexes of a collection."""
    from pymilvus import DataType, Function, FunctionType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=core.MAX_ID_BYTES)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=spec.dimension)
    indexes = client.prepare_index_params()
    build = _HNSW_BUILD if spec.index is IndexType.HNSW else {}
    indexes.add_index("vector", index_type=spec.index.upper(), index_name="vector", metric_type=_METRIC, params=build)
    if spec.text_search:
        schema.add_field("text", DataType.VARCHAR, max_length=core.MAX_TEXT_BYTES, enable_analyzer=True)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(name="bm25", function_type=FunctionType.BM25, input_field_names=["text"], output_field_names=["sparse"])
        )
        indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", index_name="sparse", metric_type="BM25")
    return schema, indexes
