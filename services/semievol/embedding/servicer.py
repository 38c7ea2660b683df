"""semievol.embedding.v1.EmbeddingService: messages in, messages out; the work is the embedder's."""

from __future__ import annotations

from collections.abc import AsyncIterator

from semievol.common.grpc_server import Context, Workers
from semievol.embedding import core, wire
from semievol.embedding.v1 import embedding_service_pb2 as pb
from semievol.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from semievol.ports import Embedder


class EmbeddingServicer(pb_grpc.EmbeddingServiceServicer):
    def __init__(self, embedder: Embedder, workers: Workers, max_batch_count: int) -> None:
        self._embedder = embedder
        self._workers = workers
        self._max_batch_count = max_batch_count

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        texts = core.check_page(list(request.texts), self._max_batch_count)
        matrix = await self._workers.run_cancellable(self._embedder.embed, texts)
        return pb.EmbedResponse(embeddings=wire.embeddings(matrix))

    async def EmbedStream(
        self, requests: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        async for request in requests:
            texts = core.check_page(list(request.texts), self._max_batch_count)
            matrix = await self._workers.run_cancellable(self._embedder.embed, texts)
            yield pb.EmbedStreamResponse(embeddings=wire.embeddings(matrix))

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:
        info = await self._workers.run(self._embedder.info)
        return wire.info_response(info, self._max_batch_count)
