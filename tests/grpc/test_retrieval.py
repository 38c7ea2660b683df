"""The retrieval service as any client sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from semievol.client.retrieval import RetrievalClient
from semievol.common import errors
from semievol.common.limits import MAX_MESSAGE_BYTES
from semievol.common.vectors import pack
from semievol.ports import CollectionSpec, VectorQuery, VectorRecord
from semievol.retrieval.backends.fake import FakeVectorIndex
from semievol.retrieval.server import service
from semievol.retrieval.settings import RetrievalSettings
from semievol.retrieval.v1 import retrieval_service_pb2 as pb
from semievol.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from tests.running import running

NAME = "semievol.retrieval.v1.RetrievalService"
UNIT = pack([0.6, 0.8])


class PagedIndex(FakeVectorIndex):
    """Remembers how many records and queries each call brought."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[int] = []

    def upsert(self, name: str, records: list[VectorRecord]) -> int:  # type: ignore[override]
        self.pages.append(len(records))
        return super().upsert(name, records)

    def search(self, name: str, queries: list[VectorQuery], limit: int) -> list:  # type: ignore[override, type-arg]
        self.pages.append(len(queries))
        return super().search(name, queries, limit)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    index = FakeVectorIndex()
    index.create(CollectionSpec("there", 2))
    with running(service(RetrievalSettings(), index)) as address:
        yield address


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> pb_grpc.RetrievalServiceStub:
    return pb_grpc.RetrievalServiceStub(channel)


def failure(call: object, request: object) -> tuple[grpc.StatusCode, str]:
    """(code, field at fault or empty) of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request)  # type: ignore[operator]
    bad = error_details_pb2.BadRequest()
    status = rpc_status.from_call(caught.value)
    assert status is not None
    field = bad.field_violations[0].field if any(detail.Unpack(bad) for detail in status.details) else ""
    return caught.value.code(), field


def test_it_is_serving_and_can_be_reflected(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=NAME)).status == health_pb2.HealthCheckResponse.SERVING
    assert NAME in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_an_unset_index_type_means_flat(stub: pb_grpc.RetrievalServiceStub) -> None:
    stub.CreateCollection(pb.CreateCollectionRequest(collection=pb.Collection(name="plain", dimension=2)))
    assert stub.Describe(pb.DescribeRequest(collection="plain")).collection.index_type == pb.INDEX_TYPE_FLAT


def test_an_upsert_counts_the_records_of_all_its_pages(stub: pb_grpc.RetrievalServiceStub) -> None:
    pages = [pb.UpsertRequest(collection="there", records=[pb.Record(id=row_id, vector=UNIT)]) for row_id in ("a", "b", "a")]
    assert stub.Upsert(iter(pages)).upserted_count == 3
    assert stub.Describe(pb.DescribeRequest(collection="there")).row_count == 2
    assert stub.Upsert(iter([])).upserted_count == 0


INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING = grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("method", "request_message", "code", "field"),
    [
        ("CreateCollection", pb.CreateCollectionRequest(), INVALID, "collection.name"),
        ("CreateCollection", pb.CreateCollectionRequest(collection=pb.Collection(name="x")), INVALID, "collection.dimension"),
        (
            "CreateCollection",
            pb.CreateCollectionRequest(collection=pb.Collection(name="x", dimension=2, index_type=9)),  # type: ignore[arg-type]
            INVALID,
            "collection.index_type",
        ),
        (
            "CreateCollection",
            pb.CreateCollectionRequest(collection=pb.Collection(name="there", dimension=3)),
            grpc.StatusCode.ALREADY_EXISTS,
            "collection.name",
        ),
        ("Describe", pb.DescribeRequest(), INVALID, "collection"),
        ("Describe", pb.DescribeRequest(collection="nope"), MISSING, "collection"),
        ("Drop", pb.DropRequest(collection="no such name"), INVALID, "collection"),
        ("Search", pb.SearchRequest(collection="nope", limit=1), MISSING, "collection"),
        ("Search", pb.SearchRequest(collection="there"), INVALID, "limit"),
        ("Search", pb.SearchRequest(collection="there", limit=1, queries=[pb.Query()]), INVALID, "queries[0]"),
        (
            "Search",
            pb.SearchRequest(collection="there", limit=1, queries=[pb.Query(vector=b"abc")]),
            INVALID,
            "queries[0].vector",
        ),
        (
            "Search",
            pb.SearchRequest(collection="there", limit=1, queries=[pb.Query(text="a")]),
            grpc.StatusCode.UNIMPLEMENTED,
            "queries[0].text",
        ),
        ("Search", pb.SearchRequest(collection="there", limit=1, queries=[pb.Query(vector=UNIT)] * 1025), INVALID, "queries"),
    ],
)
def test_an_error_about_a_field_names_the_field(
    stub: pb_grpc.RetrievalServiceStub, method: str, request_message: object, code: grpc.StatusCode, field: str
) -> None:
    assert failure(getattr(stub, method), request_message) == (code, field)


@pytest.mark.parametrize(
    ("requests", "code", "field"),
    [
        ([pb.UpsertRequest()], INVALID, "collection"),
        ([pb.UpsertRequest(collection="there"), pb.UpsertRequest(collection="plain")], INVALID, "collection"),
        ([pb.UpsertRequest(collection="nope")], MISSING, "collection"),
        ([pb.UpsertRequest(collection="there", records=[pb.Record(id="a", vector=b"abc")])], INVALID, "records[0].vector"),
        ([pb.UpsertRequest(collection="there", records=[pb.Record(id="a", vector=UNIT + UNIT)])], INVALID, "records[0].vector"),
    ],
)
def test_a_bad_page_of_an_upsert_names_the_field(
    stub: pb_grpc.RetrievalServiceStub, requests: list[pb.UpsertRequest], code: grpc.StatusCode, field: str
) -> None:
    assert failure(stub.Upsert, iter(requests)) == (code, field)


def test_an_oversized_message_is_refused_with_its_limit(stub: pb_grpc.RetrievalServiceStub) -> None:
    request = pb.SearchRequest(collection="there", limit=1, queries=[pb.Query(vector=b"x" * (MAX_MESSAGE_BYTES + 4))])
    with pytest.raises(grpc.RpcError) as caught:
        stub.Search(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_upsert_that_is_given_up_leaves_the_service_serving(stub: pb_grpc.RetrievalServiceStub) -> None:
    def endless() -> Iterator[pb.UpsertRequest]:
        while True:
            yield pb.UpsertRequest(collection="there", records=[pb.Record(id="a", vector=UNIT)])
            time.sleep(0.01)

    with pytest.raises(grpc.RpcError) as caught:
        stub.Upsert(endless(), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stub.Describe(pb.DescribeRequest(collection="there"), timeout=5).row_count >= 1


def test_the_client_sends_pages_that_respect_rows_bytes_and_hits() -> None:
    """512 KiB hold 129 records of 4 * 1000 bytes of vector and 64 of envelope; 20,000 hits are 20 queries with 1000 each."""
    index = PagedIndex()
    vector = [1.0] + [0.0] * 999
    with running(service(RetrievalSettings(), index)) as address:
        client = RetrievalClient(address)
        client.create(CollectionSpec("large", 1000))
        index.pages.clear()
        assert client.upsert("large", [VectorRecord(f"r{i}", vector) for i in range(300)]) == 300
        assert index.pages == [129, 129, 42]
        index.pages.clear()
        assert len(client.search("large", [VectorQuery(vector=vector)] * 50, 1000)) == 50
        assert index.pages == [20, 20, 10]
        client.close()


def test_a_service_that_is_not_there_is_unavailable_within_seconds() -> None:
    client = RetrievalClient("127.0.0.1:1", deadline_s=5)
    started = time.monotonic()
    with pytest.raises(errors.Unavailable, match="is it running"):
        client.describe("a")
    assert time.monotonic() - started < 10
    client.close()
