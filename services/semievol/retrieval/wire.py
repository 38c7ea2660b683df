"""Plain values <-> messages of semievol.retrieval.v1."""

from __future__ import annotations

from collections.abc import Sequence

from semievol.common import errors
from semievol.common.vectors import pack, unpack
from semievol.ports import CollectionInfo, CollectionSpec, Hit, IndexType, VectorQuery, VectorRecord
from semievol.retrieval.v1 import retrieval_service_pb2 as pb

_INDEX_TYPES = {pb.INDEX_TYPE_UNSPECIFIED: IndexType.FLAT, pb.INDEX_TYPE_FLAT: IndexType.FLAT, pb.INDEX_TYPE_HNSW: IndexType.HNSW}
_INDEX_TYPE_VALUES = {IndexType.FLAT: pb.INDEX_TYPE_FLAT, IndexType.HNSW: pb.INDEX_TYPE_HNSW}


def collection(spec: CollectionSpec) -> pb.Collection:
    return pb.Collection(
        name=spec.name, dimension=spec.dimension, index_type=_INDEX_TYPE_VALUES[spec.index], text_search=spec.text_search
    )


def collection_spec(message: pb.Collection) -> CollectionSpec:
    """Raises InvalidInput for an index type that this version does not know."""
    if message.index_type not in _INDEX_TYPES:
        raise errors.InvalidInput(f"Index type {message.index_type} is not known.", field="collection.index_type")
    return CollectionSpec(message.name, message.dimension, _INDEX_TYPES[message.index_type], message.text_search)


def upsert_request(name: str, records: Sequence[VectorRecord]) -> pb.UpsertRequest:
    messages = [pb.Record(id=record.id, vector=pack(record.vector), text=record.text) for record in records]
    return pb.UpsertRequest(collection=name, records=messages)


def records(request: pb.UpsertRequest) -> list[VectorRecord]:
    return [
        VectorRecord(message.id, unpack(message.vector, field=f"records[{i}].vector"), message.text)
        for i, message in enumerate(request.records)
    ]


def search_request(name: str, queries: Sequence[VectorQuery], limit: int) -> pb.SearchRequest:
    return pb.SearchRequest(collection=name, queries=[_query(query) for query in queries], limit=limit)


def _query(query: VectorQuery) -> pb.Query:
    if query.vector is not None:
        return pb.Query(vector=pack(query.vector), exclude_id=query.exclude_id)
    return pb.Query(text=query.text or "", exclude_id=query.exclude_id)


def queries(request: pb.SearchRequest) -> list[VectorQuery]:
    return [
        VectorQuery(
            vector=unpack(message.vector, field=f"queries[{i}].vector") if message.HasField("vector") else None,
            text=message.text if message.HasField("text") else None,
            exclude_id=message.exclude_id,
        )
        for i, message in enumerate(request.queries)
    ]


def search_response(results: Sequence[Sequence[Hit]]) -> pb.SearchResponse:
    return pb.SearchResponse(results=[pb.Hits(hits=[pb.Hit(id=hit.id, score=hit.score) for hit in hits]) for hits in results])


def results(response: pb.SearchResponse) -> list[list[Hit]]:
    return [[Hit(hit.id, hit.score) for hit in hits.hits] for hits in response.results]


def describe_response(info: CollectionInfo) -> pb.DescribeResponse:
    return pb.DescribeResponse(collection=collection(info.spec), row_count=info.row_count)


def collection_info(response: pb.DescribeResponse) -> CollectionInfo:
    return CollectionInfo(collection_spec(response.collection), response.row_count)
