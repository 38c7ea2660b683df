"""Typed client of the controller.

Specs go in as `RunSpec`; states and events come out as the messages of `semievol.controller.v1`, which are plainest as they are: nobody
computes with them, they are shown (`semievol.cli.plain` turns them into JSON values).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from semievol.common import errors
from semievol.common.grpc_client import Caller
from semievol.common.runspec import RunSpec
from semievol.common.security import Access
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.v1 import controller_service_pb2_grpc as pb_grpc
from semievol.controller.wire import spec_to_wire

PIECE_BYTES = 1 << 20  # UploadDataRequest.data: at most 1 MiB
_STREAM_DEADLINE_S = 3600.0  # a watch that is older than this is opened anew
_RECONNECT_S = 60.0  # how long a watch outlives a controller that does not answer
_UPLOAD_DEADLINE_S = 3600.0
_GARBAGE_DEADLINE_S = 3600.0
_GONE = (errors.Unavailable, errors.DeadlineExceeded)  # it is started anew, or a stream was open for too long

_INSPECT_DEADLINE_S = 600.0
_SUBMIT_DEADLINE_S = 900.0  # on a cluster an engine may have to be started first, to ask it what it serves
_PLAN_DEADLINE_S = 1800.0  # a million rows are read in a minute or two; a large model on a CPU may take as long for a few rows


class ControllerClient:
    """Calls the controller at `address`. Every method raises only errors of `semievol.common.errors`. `access`: the environment's if none is
    given."""

    def __init__(
        self, address: str, *, deadline_s: float = 60.0, reconnect_s: float = _RECONNECT_S, access: Access | None = None
    ) -> None:
        self.address = address
        self._caller = Caller("controller", address, deadline_s=deadline_s, access=access)
        self._stub = pb_grpc.ControllerServiceStub(self._caller.channel)
        self._reconnect_s = reconnect_s

    def __enter__(self) -> ControllerClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._caller.close()

    def upload(self, path: Path) -> str:
        """Stores a data file; the URI that names it in a spec. Raises NotFound (no such file), StorageError, InvalidInput."""
        if not path.is_file():
            raise errors.NotFound(f"There is no file {path}.")
        response: pb.UploadDataResponse = self._caller.upload(self._stub.UploadData, _pieces(path), deadline_s=_UPLOAD_DEADLINE_S)
        return response.uri

    def plan(self, spec: RunSpec) -> pb.PlanRunResponse:
        """What a run would do. Starts nothing, but reads the data and tries the services on a few rows."""
        request = pb.PlanRunRequest(spec=spec_to_wire(spec))
        response: pb.PlanRunResponse = self._caller.unary(self._stub.PlanRun, request, deadline_s=_PLAN_DEADLINE_S)
        return response

    def submit(self, spec: RunSpec) -> pb.Run:
        """Starts or continues the run that this spec names."""
        response: pb.SubmitRunResponse = self._caller.unary(
            self._stub.SubmitRun, pb.SubmitRunRequest(spec=spec_to_wire(spec)), deadline_s=_SUBMIT_DEADLINE_S
        )
        return response.run

    def get_run(self, run: str) -> pb.Run:
        """By id or name. Raises NotFound."""
        response: pb.GetRunResponse = self._caller.unary(self._stub.GetRun, pb.GetRunRequest(run=run))
        return response.run

    def list_runs(self) -> list[pb.Run]:
        """All runs, newest first, without their steps."""
        runs: list[pb.Run] = []
        token = ""
        while True:
            page: pb.ListRunsResponse = self._caller.unary(self._stub.ListRuns, pb.ListRunsRequest(page_token=token))
            runs += page.runs
            token = page.next_page_token
            if not token:
                return runs

    def watch(self, run: str, start_number: int = 1) -> Iterator[pb.RunEvent]:
        """A run's events from one number on, ending after a terminal one.

        A controller that goes away is waited for, and the stream goes on with the next event: nothing is lost or doubled.
        """
        number, lost = max(1, start_number), _Lost(self._reconnect_s)
        while True:
            request = pb.WatchRunRequest(run=run, start_number=number)
            try:
                for response in self._caller.stream(self._stub.WatchRun, request, deadline_s=_STREAM_DEADLINE_S):
                    event: pb.RunEvent = response.event
                    lost.found()
                    number = max(number, event.number + 1)
                    yield event
                return  # the server ends a watch when the run has ended; terminal events of earlier attempts are in between
            except _GONE as error:
                lost.wait_or_raise(error)

    def logs(self, run: str, step: str = "", *, follow: bool = False) -> Iterator[tuple[str, str]]:
        """(job, line) of one step, or of all. Raises NotFound.

        Where `follow` is set, a controller that goes away is waited for, and each log goes on behind its last line."""
        positions: dict[str, str] = {}
        lost = _Lost(self._reconnect_s if follow else 0.0)
        while True:
            request = pb.StreamLogsRequest(run=run, step=step, follow=follow, positions=positions)
            try:
                for response in self._caller.stream(self._stub.StreamLogs, request, deadline_s=_STREAM_DEADLINE_S):
                    lost.found()
                    positions[response.job] = response.position
                    for line in response.lines:
                        yield response.job, line
                return
            except _GONE as error:
                lost.wait_or_raise(error)

    def add_data(self, run: str, uri: str) -> pb.AddDataResponse:
        """Gives a run the unlabeled rows of an upload. Raises NotFound, InvalidInput (with the rows)."""
        request = pb.AddDataRequest(run=run, uri=uri)
        response: pb.AddDataResponse = self._caller.unary(self._stub.AddData, request, idempotent=False)
        return response

    def delete_run(self, run: str) -> pb.DeleteRunResponse:
        """Forgets a run, and its models that no alias has pointed at. Raises NotFound, Conflict (it is at work)."""
        response: pb.DeleteRunResponse = self._caller.unary(self._stub.DeleteRun, pb.DeleteRunRequest(run=run), idempotent=False)
        return response

    def collect_garbage(self, *, dry_run: bool) -> pb.CollectGarbageResponse:
        """Deletes (or counts) what no run and no model needs. Raises Conflict (a run is at work)."""
        request = pb.CollectGarbageRequest(dry_run=dry_run)
        response: pb.CollectGarbageResponse = self._caller.unary(
            self._stub.CollectGarbage, request, deadline_s=_GARBAGE_DEADLINE_S
        )
        return response

    def export(self, run: str, iteration: int = 0) -> Iterator[tuple[str, pb.TrainingRow]]:
        """(run id, row) of all that an iteration's model was trained on; 0: of the last iteration that has selected. Raises NotFound,
        Conflict (nothing is selected yet)."""
        request = pb.ExportPseudoLabelsRequest(run=run, iteration=iteration)
        for response in self._caller.stream(self._stub.ExportPseudoLabels, request, deadline_s=_STREAM_DEADLINE_S):
            for row in response.rows:
                yield response.run, row

    def cancel_run(self, run: str) -> pb.Run:
        """Stops a run; finished steps are kept. Raises NotFound."""
        response: pb.CancelRunResponse = self._caller.unary(self._stub.CancelRun, pb.CancelRunRequest(run=run))
        return response.run

    def retry_run(self, run: str, from_step: str = "") -> pb.Run:
        """Continues a failed or cancelled run, or does a step and what follows from it again. Raises NotFound, Conflict (it is at work)."""
        request = pb.RetryRunRequest(run=run, from_step=from_step)
        response: pb.RetryRunResponse = self._caller.unary(
            self._stub.RetryRun, request, deadline_s=_SUBMIT_DEADLINE_S, idempotent=False
        )
        return response.run

    def list_models(self) -> pb.ListModelsResponse:
        """Models and aliases."""
        response: pb.ListModelsResponse = self._caller.unary(self._stub.ListModels, pb.ListModelsRequest())
        return response

    def promote(self, model: str, alias: str, weight: int = 0) -> pb.Alias:
        """Points an alias at a model, or that percentage of its calls; 0 means all. Raises NotFound, InvalidInput, Conflict."""
        request = pb.PromoteModelRequest(model=model, alias=alias, weight=weight)
        response: pb.PromoteModelResponse = self._caller.unary(self._stub.PromoteModel, request)
        return response.alias

    def rollback(self, alias: str) -> pb.Alias:
        """Takes an alias's canary away, else points it at the model before. Raises NotFound, Conflict (there is none)."""
        request = pb.RollbackModelRequest(alias=alias)
        response: pb.RollbackModelResponse = self._caller.unary(self._stub.RollbackModel, request, idempotent=False)
        return response.alias

    def preview_selection(self, run: str, thetas: Sequence[float], iteration: int = 0) -> pb.PreviewSelectionResponse:
        """What other percentiles would keep. Raises NotFound, InvalidInput (theta), Conflict (the run has no entropies yet)."""
        request = pb.PreviewSelectionRequest(run=run, thetas=thetas, iteration=iteration)
        response: pb.PreviewSelectionResponse = self._caller.unary(
            self._stub.PreviewSelection, request, deadline_s=_INSPECT_DEADLINE_S
        )
        return response

    def explain_row(self, run: str, row_id: str, iteration: int = 0) -> pb.ExplainRowResponse:
        """Everything that a run knows of one unlabeled row. Raises NotFound (run, row)."""
        request = pb.ExplainRowRequest(run=run, row_id=row_id, iteration=iteration)
        response: pb.ExplainRowResponse = self._caller.unary(self._stub.ExplainRow, request, deadline_s=_INSPECT_DEADLINE_S)
        return response

    def diagnose(self, *, train: bool = False) -> pb.DiagnoseResponse:
        """Tries every service and the store with one row."""
        request = pb.DiagnoseRequest(train=train)
        response: pb.DiagnoseResponse = self._caller.unary(self._stub.Diagnose, request, deadline_s=_PLAN_DEADLINE_S)
        return response


class _Lost:
    """How long a controller that is followed has been away; after `patience_s` that is an error."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: float | None = None

    def found(self) -> None:
        self._since = None

    def wait_or_raise(self, error: errors.SemiEvolError) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._patience_s or isinstance(error, errors.NotTrusted):
            raise error
        time.sleep(min(0.5, self._patience_s / 10))


def _pieces(path: Path) -> Iterator[pb.UploadDataRequest]:
    yield pb.UploadDataRequest(name=path.name)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield pb.UploadDataRequest(data=piece)
