"""semievol.judging.v1.JudgingService: messages in, messages out; the work is the judge's."""

from __future__ import annotations

from semievol.common.grpc_server import Context, Workers
from semievol.common.wire import task_from_wire
from semievol.judging import core, wire
from semievol.judging.v1 import judging_service_pb2 as pb
from semievol.judging.v1 import judging_service_pb2_grpc as pb_grpc
from semievol.ports import Judge


class JudgingServicer(pb_grpc.JudgingServiceServicer):
    def __init__(self, judge: Judge, workers: Workers, max_batch_count: int) -> None:
        self._judge = judge
        self._workers = workers
        self._max_batch_count = max_batch_count

    async def Judge(self, request: pb.JudgeRequest, context: Context) -> pb.JudgeResponse:
        core.check_page(len(request.items), self._max_batch_count)
        requests, task = wire.judge_requests(request.items), task_from_wire(request.task)
        options = {"judge_all": request.judge_all, "max_tokens": wire.max_tokens(request)}
        verdicts = await self._workers.run_cancellable(self._judge.judge, wire.model(request), task, requests, **options)
        return wire.judge_response(verdicts)

    async def Select(self, request: pb.SelectRequest, context: Context) -> pb.SelectResponse:
        core.unique([row.row_id for row in request.rows], "rows[{}].row_id")
        entropies, population = wire.row_entropies(request.rows), list(request.threshold_entropies)
        return wire.select_response(
            await self._workers.run(self._judge.select, entropies, request.theta, threshold_entropies=population)
        )
