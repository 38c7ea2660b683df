"""semievol.training.v1.TrainingService: messages in, messages out; the work is the trainer's."""

from __future__ import annotations

from collections.abc import AsyncIterator

from semievol.common.grpc_server import Context, Workers
from semievol.ports import Trainer
from semievol.training import wire
from semievol.training.v1 import training_service_pb2 as pb
from semievol.training.v1 import training_service_pb2_grpc as pb_grpc


class TrainingServicer(pb_grpc.TrainingServiceServicer):
    """`watchers` are threads of their own, since a watch holds one until its run ends."""

    def __init__(self, trainer: Trainer, workers: Workers, watchers: Workers) -> None:
        self._trainer = trainer
        self._workers = workers
        self._watchers = watchers

    async def CreateRun(self, request: pb.CreateRunRequest, context: Context) -> pb.CreateRunResponse:
        spec = wire.spec_from_wire(request.spec)
        state = await self._workers.run(self._trainer.create_run, request.key, spec, run=request.run)
        return pb.CreateRunResponse(run=wire.state_to_wire(state))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        state = await self._workers.run(self._trainer.get_run, request.key)
        return pb.GetRunResponse(run=wire.state_to_wire(state))

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> AsyncIterator[pb.WatchRunResponse]:
        async for state in self._watchers.stream(self._trainer.watch_run, request.key):
            yield pb.WatchRunResponse(run=wire.state_to_wire(state))

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        state = await self._workers.run(self._trainer.cancel_run, request.key)
        return pb.CancelRunResponse(run=wire.state_to_wire(state))
