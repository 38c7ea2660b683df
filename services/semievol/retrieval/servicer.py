"""semievol.retrieval.v1.RetrievalService: messages in, messages out; the work is the index's."""

from __future__ import annotations

from collections.abc import AsyncIterator

from semievol.common.grpc_server import Context, Workers
from semievol.ports import Fronted, VectorIndex
from semievol.retrieval import core, wire
from semievol.retrieval.v1 import retrieval_service_pb2 as pb
from semievol.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc


class RetrievalServicer(pb_grpc.RetrievalServiceServicer):
    def __init__(self, index: VectorIndex, workers: Workers) -> None:
        self._index = index
        self._workers = workers

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Context) -> pb.CreateCollectionResponse:
        await self._workers.run(self._index.create, wire.collection_spec(request.collection))
        return pb.CreateCollectionResponse()

    async def Upsert(self, requests: AsyncIterator[pb.UpsertRequest], context: Context) -> pb.UpsertResponse:
        name, count = "", 0
        async for request in requests:
            name = core.check_same_collection(name, request.collection)
            count += await self._workers.run(self._index.upsert, name, wire.records(request))
        return pb.UpsertResponse(upserted_count=count)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        queries = core.check_page(wire.queries(request))
        return wire.search_response(await self._workers.run(self._index.search, request.collection, queries, request.limit))

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        return wire.describe_response(await self._workers.run(self._index.describe, request.collection))

    async def Drop(self, request: pb.DropRequest, context: Context) -> pb.DropResponse:
        await self._workers.run(self._index.drop, request.collection)
        return pb.DropResponse()

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:
        return pb.GetInfoResponse(server=await self._workers.run(self._index.server) if isinstance(self._index, Fronted) else "")
