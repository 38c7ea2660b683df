"""semievol.controller.v1.ControllerService: translates only."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing

import semievol
from semievol.common import errors
from semievol.common.grpc_server import Context, Workers
from semievol.controller import inspection_wire, wire
from semievol.controller.core import Controller
from semievol.controller.replicas import Replicas, by_the_acting
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.v1 import controller_service_pb2_grpc as pb_grpc

_MAX_PAGE = 1000
_DEFAULT_PAGE = 100
_TOLD_S = 5.0  # for an answer of the replica that acts, where there is one here, too


class ControllerServicer(pb_grpc.ControllerServiceServicer):
    """`workers` serve the calls that answer at once, `watchers` those that wait for a run. `others`: who acts, where this replica does not."""

    def __init__(self, controller: Controller, workers: Workers, watchers: Workers, others: Replicas) -> None:
        self.others = others
        self._core = controller
        self._workers = workers
        self._watchers = watchers

    async def UploadData(self, requests: AsyncIterator[pb.UploadDataRequest], context: Context) -> pb.UploadDataResponse:
        first = await anext(aiter(requests), pb.UploadDataRequest())
        if not first.name:
            raise errors.InvalidInput("The first message of an upload must have the file's name.", field="name")
        with self._core.begin_upload(first.name) as upload:
            async for request in requests:
                await self._workers.run(upload.write, request.data)
            uri, size = await self._workers.run(upload.finish)
        return pb.UploadDataResponse(uri=uri, size_bytes=size)

    async def PlanRun(self, request: pb.PlanRunRequest, context: Context) -> pb.PlanRunResponse:
        planned = await self._watchers.run_cancellable(self._core.plan_run, wire.spec_from_wire(request.spec))
        return inspection_wire.forecast_to_wire(planned)

    @by_the_acting
    async def SubmitRun(self, request: pb.SubmitRunRequest, context: Context) -> pb.SubmitRunResponse:
        return pb.SubmitRunResponse(
            run=wire.run_to_wire(await self._workers.run(self._core.submit, wire.spec_from_wire(request.spec)))
        )

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        if replica := self.others.for_call(context):  # which alone knows what holds a run's jobs up
            with contextlib.suppress(errors.Unavailable, errors.DeadlineExceeded):  # the record is here, too
                told: pb.GetRunResponse = await replica.unary("GetRun", request, deadline_s=_TOLD_S)
                return told
        return pb.GetRunResponse(run=wire.run_to_wire(await self._workers.run(self._core.get, request.run)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        start, size = _page(request)
        runs = await self._workers.run(self._core.runs)
        more = str(start + size) if start + size < len(runs) else ""
        return pb.ListRunsResponse(runs=map(wire.run_to_wire, runs[start : start + size]), next_page_token=more)

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> AsyncIterator[pb.WatchRunResponse]:
        number = request.start_number
        if replica := self.others.for_call(context):  # which alone knows how far jobs are
            with contextlib.suppress(errors.Unavailable):  # events are recorded, and go on here
                async with aclosing(replica.stream("WatchRun", request)) as responses:
                    async for response in responses:
                        number = max(number, response.event.number + 1)
                        yield response
                return
        async for event in self._watchers.stream(self._core.watch, request.run, number):
            yield pb.WatchRunResponse(event=wire.event_to_wire(event, self._model))

    async def StreamLogs(self, request: pb.StreamLogsRequest, context: Context) -> AsyncIterator[pb.StreamLogsResponse]:
        asked = {"follow": request.follow, "positions": dict(request.positions)}
        async for job, part in self._watchers.stream(self._core.logs, request.run, request.step, **asked):
            yield pb.StreamLogsResponse(job=job, lines=part.lines, position=part.position)

    @by_the_acting
    async def AddData(self, request: pb.AddDataRequest, context: Context) -> pb.AddDataResponse:
        view, iteration, (rows, new) = await self._workers.run(self._core.add_data, request.run, request.uri)
        return pb.AddDataResponse(run=wire.run_to_wire(view), iteration=iteration, row_count=rows, new_row_count=new)

    async def ExportPseudoLabels(
        self, request: pb.ExportPseudoLabelsRequest, context: Context
    ) -> AsyncIterator[pb.ExportPseudoLabelsResponse]:
        if request.iteration < 0:
            raise errors.InvalidInput("Iterations count from 1; 0 means the last one.", field="iteration")
        async for run, page in self._watchers.stream(self._core.export, request.run, request.iteration):
            yield pb.ExportPseudoLabelsResponse(run=run, rows=map(wire.exported_row_to_wire, page))

    @by_the_acting
    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        return pb.CancelRunResponse(run=wire.run_to_wire(await self._workers.run(self._core.cancel, request.run)))

    @by_the_acting
    async def RetryRun(self, request: pb.RetryRunRequest, context: Context) -> pb.RetryRunResponse:
        view = await self._workers.run(self._core.retry, request.run, request.from_step)
        return pb.RetryRunResponse(run=wire.run_to_wire(view))

    @by_the_acting
    async def DeleteRun(self, request: pb.DeleteRunRequest, context: Context) -> pb.DeleteRunResponse:
        run_id, models = await self._workers.run(self._core.delete, request.run)
        return pb.DeleteRunResponse(run=run_id, models=models)

    @by_the_acting
    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        found = await self._workers.run(self._core.collect_garbage, dry_run=request.dry_run)
        return pb.CollectGarbageResponse(
            object_count=found.object_count, size_bytes=found.size_bytes, collections=found.collections, notes=found.notes
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return await self._workers.run(self._list_models)

    async def PromoteModel(self, request: pb.PromoteModelRequest, context: Context) -> pb.PromoteModelResponse:
        alias = await self._workers.run(self._core.promote, request.model, request.alias, request.weight)
        return pb.PromoteModelResponse(alias=wire.alias_to_wire(alias))

    async def RollbackModel(self, request: pb.RollbackModelRequest, context: Context) -> pb.RollbackModelResponse:
        alias = await self._workers.run(self._core.rollback, request.alias)
        return pb.RollbackModelResponse(alias=wire.alias_to_wire(alias))

    async def PreviewSelection(self, request: pb.PreviewSelectionRequest, context: Context) -> pb.PreviewSelectionResponse:
        found = await self._watchers.run(self._core.inspector.preview, request.run, request.thetas, request.iteration)
        return inspection_wire.previews_to_wire(found)

    async def ExplainRow(self, request: pb.ExplainRowRequest, context: Context) -> pb.ExplainRowResponse:
        found = await self._watchers.run(self._core.inspector.explain, request.run, request.row_id, request.iteration)
        return inspection_wire.explanation_to_wire(found)

    async def Diagnose(self, request: pb.DiagnoseRequest, context: Context) -> pb.DiagnoseResponse:
        findings = await self._watchers.run_cancellable(self._core.diagnose, train=request.train)
        return pb.DiagnoseResponse(findings=map(inspection_wire.finding_to_wire, findings), version=semievol.__version__)

    def _list_models(self) -> pb.ListModelsResponse:
        models, aliases = self._core.models()
        listed = [wire.model_to_wire(model, self._core.directory_of(model)) for model in models]
        return pb.ListModelsResponse(models=listed, aliases=map(wire.alias_to_wire, aliases))

    def _model(self, name: str) -> pb.Model | None:
        return next((model for model in self._list_models().models if model.name == name), None)


def _page(request: pb.ListRunsRequest) -> tuple[int, int]:
    if not 0 <= request.page_size <= _MAX_PAGE:
        raise errors.InvalidInput(f"page_size is from 1 to {_MAX_PAGE}, or 0 for {_DEFAULT_PAGE}.", field="page_size")
    if request.page_token and not request.page_token.isdigit():
        raise errors.InvalidInput("page_token is not one that ListRuns gave.", field="page_token")
    return int(request.page_token or 0), request.page_size or _DEFAULT_PAGE
