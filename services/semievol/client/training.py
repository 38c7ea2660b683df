"""The training service as a `Trainer`."""

from __future__ import annotations

from collections.abc import Iterator

from semievol.common.grpc_client import Caller
from semievol.ports import NEVER, Cancel, TrainingSpec, TrainingState
from semievol.training import core, wire
from semievol.training.v1 import training_service_pb2 as pb
from semievol.training.v1 import training_service_pb2_grpc as pb_grpc

_WATCH_DEADLINE_S = 7 * 24 * 3600.0  # a run may take days; closing the iterator ends the call


class TrainingClient:
    """Safe to share between threads. `close` it."""

    def __init__(self, address: str, *, deadline_s: float = 60.0) -> None:
        self._caller = Caller("training", address, deadline_s=deadline_s)
        self._stub = pb_grpc.TrainingServiceStub(self._caller.channel)

    def create_run(self, key: str, spec: TrainingSpec, *, run: str = "") -> TrainingState:
        core.check(key, spec)  # on the wire a zero would stand for the default
        request = pb.CreateRunRequest(key=key, spec=wire.spec_to_wire(spec), run=run)
        response: pb.CreateRunResponse = self._caller.unary(self._stub.CreateRun, request)
        return wire.state_from_wire(response.run)

    def get_run(self, key: str) -> TrainingState:
        response: pb.GetRunResponse = self._caller.unary(self._stub.GetRun, pb.GetRunRequest(key=key))
        return wire.state_from_wire(response.run)

    def watch_run(self, key: str, *, cancel: Cancel = NEVER) -> Iterator[TrainingState]:
        request = pb.WatchRunRequest(key=key)
        for response in self._caller.stream(self._stub.WatchRun, request, deadline_s=_WATCH_DEADLINE_S):
            if cancel.is_set():
                return
            yield wire.state_from_wire(response.run)

    def cancel_run(self, key: str) -> TrainingState:
        response: pb.CancelRunResponse = self._caller.unary(self._stub.CancelRun, pb.CancelRunRequest(key=key))
        return wire.state_from_wire(response.run)

    def close(self) -> None:
        self._caller.close()
