"""The retrieval service as a `VectorIndex`."""

from __future__ import annotations

from collections.abc import Sequence

from semievol.client.paging import pages
from semievol.common.grpc_client import Caller
from semievol.common.limits import MAX_PAGE_ROWS
from semievol.ports import CollectionInfo, CollectionSpec, Hit, VectorQuery, VectorRecord
from semievol.retrieval import core, wire
from semievol.retrieval.v1 import retrieval_service_pb2 as pb
from semievol.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

# Each search of Milvus Lite looks for deleted rows anew, however many queries it brings: a thousand of 384 dimensions go in one call.
_PAGE_BYTES = 4 * 1024 * 1024
_PAGE_HITS = 20_000  # hits in one response: 10 MB where every id is as long as it may be


class RetrievalClient:
    """Safe to share between threads. `close` it."""

    def __init__(self, address: str, *, deadline_s: float = 600.0) -> None:
        self._caller = Caller("retrieval", address, deadline_s=deadline_s)
        self._stub = pb_grpc.RetrievalServiceStub(self._caller.channel)

    def create(self, spec: CollectionSpec) -> None:
        self._caller.unary(self._stub.CreateCollection, pb.CreateCollectionRequest(collection=wire.collection(spec)))

    def upsert(self, name: str, records: Sequence[VectorRecord]) -> int:
        """One stream of pages. Without records it still says whether the collection is there."""
        if records:  # the service numbers records within a page, so faults among them are found here
            core.check_records(CollectionSpec(name, max(1, len(records[0].vector))), records)
        parts = list(pages(records, lambda record: 4 * len(record.vector) + 4 * len(record.text) + 64, MAX_PAGE_ROWS)) or [
            records
        ]
        requests = (wire.upsert_request(name, page) for page in parts)
        response: pb.UpsertResponse = self._caller.upload(self._stub.Upsert, requests)
        return response.upserted_count

    def search(self, name: str, queries: Sequence[VectorQuery], limit: int) -> list[list[Hit]]:
        dimension = next((len(query.vector) for query in queries if query.vector is not None), 1)
        core.check_queries(CollectionSpec(name, max(1, dimension), text_search=True), queries, limit)
        found: list[list[Hit]] = []
        page_rows = min(MAX_PAGE_ROWS, max(1, _PAGE_HITS // limit))
        for page in list(pages(queries, _query_bytes, page_rows, _PAGE_BYTES)) or [queries]:
            response = self._caller.unary(self._stub.Search, wire.search_request(name, page, limit))
            found += wire.results(response)
        return found

    def describe(self, name: str) -> CollectionInfo:
        return wire.collection_info(self._caller.unary(self._stub.Describe, pb.DescribeRequest(collection=name)))

    def drop(self, name: str) -> None:
        self._caller.unary(self._stub.Drop, pb.DropRequest(collection=name))

    def server(self) -> str:
        response: pb.GetInfoResponse = self._caller.unary(self._stub.GetInfo, pb.GetInfoRequest())
        return response.server

    def close(self) -> None:
        self._caller.close()


def _query_bytes(query: VectorQuery) -> int:
    return 64 + (4 * len(query.vector) if query.vector is not None else 4 * len(query.text or ""))
