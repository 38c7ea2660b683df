"""A controller with scripted runs: a named test double of the whole service, for clients and commands.

Submitting a spec gives it the run that `script` makes of it; by default one that has succeeded. Models and aliases behave as the real ones do.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

import semievol
from semievol.common import errors
from semievol.common.grpc_server import Service
from semievol.common.runspec import RunSpec
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.v1 import controller_service_pb2_grpc as pb_grpc
from semievol.controller.wire import spec_from_wire, spec_to_wire

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class ScriptedRun:
    """What the fake knows of one run. `logs`: (job, lines) by step name (`1/warm`). `rows`: what its iterations trained on, by iteration."""

    run: pb.Run
    events: list[pb.RunEvent] = field(default_factory=list)
    logs: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    rows: dict[int, list[pb.TrainingRow]] = field(default_factory=dict)


def succeeded(spec: RunSpec) -> ScriptedRun:
    """A run of two steps, one of them reused, that ended well."""
    run_id = f"{spec.name}-{hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:8]}"
    steps = [
        pb.StepStatus(
            iteration=0, name="intake", state=pb.STATE_SUCCEEDED, key="0" * 64, shard_count=1, shards_done=1, reused=True
        ),
        pb.StepStatus(iteration=1, name="warm", state=pb.STATE_SUCCEEDED, key="1" * 64, shard_count=1, shards_done=1),
    ]
    model = pb.Model(
        name=f"{spec.name}-evolved-abc123",
        role="evolved",
        run=run_id,
        iteration=1,
        base=spec.model,
        uri=f"artifact:{'2' * 64}",
        sha256="3" * 64,
        accuracy=0.75,
    )
    events = [
        pb.RunEvent(number=1, run_started=pb.RunStarted()),
        pb.RunEvent(number=2, step_reused=pb.StepReused(iteration=0, step="intake", key="0" * 64)),
        pb.RunEvent(number=3, step_started=pb.StepStarted(iteration=1, step="warm", shard=-1, attempt=1, job="job-warm-1")),
        pb.RunEvent(
            step_progress=pb.StepProgress(
                iteration=1, step="warm", done=6, total=12, unit="updates", loss=1.5, tokens_per_second=250
            )
        ),
        pb.RunEvent(number=4, step_succeeded=pb.StepSucceeded(iteration=1, step="warm", key="1" * 64, seconds=3.5)),
        pb.RunEvent(number=5, model_registered=pb.ModelRegistered(model=model)),
        pb.RunEvent(number=6, run_succeeded=pb.RunSucceeded()),
    ]
    run = pb.Run(id=run_id, state=pb.STATE_SUCCEEDED, spec=spec_to_wire(spec), steps=steps, last_start_number=1)
    run.result_json = json.dumps(example_result(run_id, model))
    run.create_time.FromSeconds(1_760_000_000)
    return ScriptedRun(run, events, {"1/warm": ("job-warm-1", ["training", "trained"])}, {1: example_rows()})


def example_rows() -> list[pb.TrainingRow]:
    """A pseudo-label and a labeled row."""
    pseudo = pb.TrainingRow(
        id="u1", source="pseudo", question="Who sang?", answer="ada", completion="Answer: Ada", decision="judged", iteration=1
    )
    pseudo.entropy, pseudo.agreement, pseudo.model = 0.25, 0.5, "demo-warm-def456"
    pseudo.candidates.add(collaborator="warm-0", text="Answer: Ada", answer="ada")
    pseudo.candidates.add(collaborator="base-1", text="", no_answer="empty")
    labeled = pb.TrainingRow(id="l1", source="labeled", question="Who danced?", answer="Bob", completion="Answer: Bob")
    for row in (pseudo, labeled):
        row.prompt.add(role="user", content=f"Question: {row.question}")
    return [pseudo, labeled]


def failed(spec: RunSpec, error: str = "The judge is down.", error_class: str = "Unavailable") -> ScriptedRun:
    """A run that could not go on."""
    scripted = succeeded(spec)
    scripted.run.state = pb.STATE_FAILED
    scripted.run.error, scripted.run.error_class, scripted.run.result_json = error, error_class, ""
    scripted.events[-1] = pb.RunEvent(number=6, run_failed=pb.RunFailed(error=error, error_class=error_class))
    return scripted


def example_result(run_id: str, model: pb.Model) -> dict[str, Any]:
    """A result in its documented shape (docs/run-file.md)."""

    def accuracy(value: float) -> dict[str, float]:
        return {"n": 200, "value": value, "low": value - 0.06, "high": value + 0.06}

    evolved = {"name": model.name, "uri": model.uri, "directory": model.directory or None}
    iteration = {
        "n": 1,
        "labeled": 48,
        "unlabeled": 300,
        "no_answer": 2,
        "unanimous": 120,
        "threshold": 0.12,
        "selected": 150,
        "accuracy": {"base": accuracy(0.31), "warm": accuracy(0.7), "evolved": accuracy(0.75)},
        "gain": {"warm_to_evolved": {"value": 0.05, "low": -0.01, "high": 0.11}},
        "pseudo_label_accuracy": None,
        "models": {"warm": {"name": "demo-warm-def456", "uri": f"artifact:{'1' * 64}", "directory": None}, "evolved": evolved},
        "seconds": {"intake": 0.1, "warm": 3.5},
        "reused": ["intake"],
    }
    return {"run": run_id, "iterations": [iteration]}


def example_plan(run: pb.Run) -> pb.PlanRunResponse:
    """Of a run that differs from an earlier one in theta: intake is there, the rest is to be done."""
    warm = pb.PlannedStep(
        iteration=1, name="warm", reason="theta changed 50 -> 40", row_count=48, update_count=12, seconds=90, basis="trial"
    )
    warm.prompt_token_count, warm.output_token_count = 12_000, 480
    judge = pb.PlannedPrompt(name="judge", row_id="row-1", prompt_token_count=61, note="Candidates: answers of the base model.")
    judge.messages.add(role="user", content="Question: Which?")
    return pb.PlanRunResponse(
        run_id=run.id,
        steps=run.steps,
        rows=[pb.PlannedRows(role="labeled", file="labeled.csv", row_count=48, duplicate_count=1)],
        planned_steps=[pb.PlannedStep(name="intake", reused=True, reason="made by demo-0", row_count=348), warm],
        total=pb.PlannedStep(update_count=12, prompt_token_count=12_000, output_token_count=480, seconds=90),
        prompts=[judge],
        compared_run="demo-0",
        changes=["theta changed 50 -> 40"],
        notes=["Tokens: measured on 8 rows."],
    )


def example_explanation(run_id: str) -> pb.ExplainRowResponse:
    """Of a row whose candidates disagree, which was judged and kept."""
    found = pb.ExplainRowResponse(run_id=run_id, iteration=1, row_id="row-1", question="Which?", options=["this", "that"])
    found.references.add(row_id="labeled-1", question="Which one?", response="Answer: A")
    found.candidates.add(collaborator="warm-0", text="Answer: A", answer="A", entropy=0.1)
    found.candidates.add(collaborator="base-1", text="", no_answer="empty")
    found.decision, found.answer, found.response, found.agreement = "judged", "A", "Answer: A", 0.5
    found.transcript.add(role="user", content="Weigh them.")
    found.transcript.add(role="assistant", content="Answer: A")
    found.entropy, found.threshold, found.fate = 0.1, 0.2, "kept"
    return found


class FakeControllerServicer(pb_grpc.ControllerServiceServicer):
    """See the module's docstring. `drop_watch_after`: the first watch breaks off with UNAVAILABLE after so many events."""

    def __init__(
        self,
        runs: Iterable[ScriptedRun] = (),
        *,
        script: Callable[[RunSpec], ScriptedRun] = succeeded,
        drop_watch_after: int | None = None,
    ) -> None:
        self.runs = {scripted.run.id: scripted for scripted in runs}
        self.script = script
        self.uploads: dict[str, bytes] = {}
        self.largest_piece = 0
        self.submitted: list[RunSpec] = []
        self.aliases: dict[str, list[str]] = {}
        self.canaries: dict[str, tuple[str, int]] = {}
        self.added: list[str] = []
        self.retried: list[str] = []  # `from_step` of each retry
        self.garbage = 3  # objects
        self.collections: list[str] = []  # that go with them
        self.garbage_notes: list[str] = []

        self.version = semievol.__version__
        self.findings = [pb.Finding(name="store", status=pb.FINDING_STATUS_OK, message="works", seconds=0.1)]
        # (job, line) before which a stream breaks off with UNAVAILABLE, one after the other
        self.drop_logs_before: list[tuple[str, int]] = []
        self.hold_watch = False  # True: watches stay silent
        self.watching = 0
        self._drop_watch_after = drop_watch_after

    async def UploadData(self, request_iterator: AsyncIterator[pb.UploadDataRequest], context: Context) -> pb.UploadDataResponse:
        name, data = "", b""
        async for request in request_iterator:
            if request.WhichOneof("part") == "name":
                name = request.name
            else:
                data += request.data
                self.largest_piece = max(self.largest_piece, len(request.data))
        uri = f"data:{hashlib.sha256(data).hexdigest()}/{name}"
        self.uploads[uri] = data
        return pb.UploadDataResponse(uri=uri, size_bytes=len(data))

    async def PlanRun(self, request: pb.PlanRunRequest, context: Context) -> pb.PlanRunResponse:
        return example_plan(self.script(spec_from_wire(request.spec)).run)

    async def SubmitRun(self, request: pb.SubmitRunRequest, context: Context) -> pb.SubmitRunResponse:
        spec = spec_from_wire(request.spec)
        self.submitted.append(spec)
        scripted = self.script(spec)
        self.runs.setdefault(scripted.run.id, scripted)
        return pb.SubmitRunResponse(run=self.runs[scripted.run.id].run)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=self._find(request.run).run)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Pages of one run, so that every client has to turn them."""
        runs = [scripted.run for scripted in self.runs.values()]
        at = int(request.page_token or 0)
        more = str(at + 1) if at + 1 < len(runs) else ""
        return pb.ListRunsResponse(runs=runs[at : at + 1], next_page_token=more)

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> AsyncIterator[pb.WatchRunResponse]:
        first = max(1, request.start_number)
        self.watching += 1
        if self.hold_watch:
            await asyncio.Event().wait()  # until the client goes away
        for index, event in enumerate(self._find(request.run).events):
            if self._drop_watch_after is not None and index >= self._drop_watch_after:
                self._drop_watch_after = None
                raise errors.Unavailable("The controller is going away.")
            if event.number == 0 or event.number >= first:
                yield pb.WatchRunResponse(event=event)
                await asyncio.sleep(0)

    async def StreamLogs(self, request: pb.StreamLogsRequest, context: Context) -> AsyncIterator[pb.StreamLogsResponse]:
        logs = self._find(request.run).logs
        if request.step and request.step not in logs:
            raise errors.NotFound(f"The run has no step {request.step!r}.", field="step")
        for step, (job, lines) in logs.items():
            if request.step not in ("", step):
                continue
            for number in range(int(request.positions.get(job, 0)), len(lines)):
                if self.drop_logs_before and self.drop_logs_before[0] == (job, number):
                    self.drop_logs_before.pop(0)
                    raise errors.Unavailable("The controller is going away.")
                yield pb.StreamLogsResponse(job=job, lines=[lines[number]], position=str(number + 1))

    async def AddData(self, request: pb.AddDataRequest, context: Context) -> pb.AddDataResponse:
        run = self._find(request.run).run
        if request.uri not in self.uploads:
            raise errors.NotFound(f"There is no upload {request.uri}.", field="uri")
        self.added.append(request.uri)
        return pb.AddDataResponse(run=run, iteration=run.spec.iterations + 1, row_count=24, new_row_count=18)

    async def DeleteRun(self, request: pb.DeleteRunRequest, context: Context) -> pb.DeleteRunResponse:
        run = self._find(request.run).run
        if run.state == pb.STATE_RUNNING:
            raise errors.Conflict(f"The run {run.id} is at work: cancel it first.", field="run")
        del self.runs[run.id]
        return pb.DeleteRunResponse(run=run.id, models=["demo-warm-def456"])

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        found = pb.CollectGarbageResponse(
            object_count=self.garbage,
            size_bytes=1024 * self.garbage,
            collections=self.collections,
            notes=self.garbage_notes,
        )
        self.garbage = self.garbage if request.dry_run else 0
        return found

    async def ExportPseudoLabels(
        self, request: pb.ExportPseudoLabelsRequest, context: Context
    ) -> AsyncIterator[pb.ExportPseudoLabelsResponse]:
        """Pages of one row."""
        scripted = self._find(request.run)
        if not scripted.rows:
            raise errors.Conflict(f"The run {scripted.run.id} has not selected its pseudo-labels yet.", field="run")
        iteration = request.iteration or max(scripted.rows)
        if iteration not in scripted.rows:
            raise errors.NotFound(f"The run {scripted.run.id} has no iteration {iteration} (yet).", field="iteration")
        for row in scripted.rows[iteration]:
            yield pb.ExportPseudoLabelsResponse(run=scripted.run.id, rows=[row])

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        run = self._find(request.run).run
        if run.state in (pb.STATE_RUNNING, pb.STATE_WAITING):
            run.state = pb.STATE_CANCELLED
        return pb.CancelRunResponse(run=run)

    async def RetryRun(self, request: pb.RetryRunRequest, context: Context) -> pb.RetryRunResponse:
        run = self._find(request.run).run
        if run.state not in (pb.STATE_FAILED, pb.STATE_CANCELLED):
            raise errors.Conflict(f"Run {run.id} has neither failed nor been cancelled.")
        self.retried.append(request.from_step)
        run.state = pb.STATE_RUNNING
        return pb.RetryRunResponse(run=run)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self._models(), aliases=[self._alias(name) for name in sorted(self.aliases)])

    async def PromoteModel(self, request: pb.PromoteModelRequest, context: Context) -> pb.PromoteModelResponse:
        if request.model not in [model.name for model in self._models()]:
            raise errors.NotFound(f"There is no model {request.model!r}.", field="model")
        if 0 < request.weight < 100:
            if request.alias not in self.aliases:
                raise errors.Conflict(f"The alias {request.alias} points at nothing yet.", field="weight")
            if self.aliases[request.alias][0] == request.model:
                raise errors.Conflict(f"The alias {request.alias} points at {request.model} already.", field="model")
            self.canaries[request.alias] = (request.model, request.weight)
            return pb.PromoteModelResponse(alias=self._alias(request.alias))
        history = self.aliases.setdefault(request.alias, [])
        self.canaries.pop(request.alias, None)
        if history[:1] != [request.model]:
            history.insert(0, request.model)
        return pb.PromoteModelResponse(alias=self._alias(request.alias))

    async def RollbackModel(self, request: pb.RollbackModelRequest, context: Context) -> pb.RollbackModelResponse:
        if request.alias not in self.aliases:
            raise errors.NotFound(f"There is no alias {request.alias!r}.", field="alias")
        if request.alias not in self.canaries and len(self.aliases[request.alias]) < 2:
            raise errors.Conflict(f"Alias {request.alias!r} pointed at no other model before.")
        if not self.canaries.pop(request.alias, None):
            self.aliases[request.alias].pop(0)
        return pb.RollbackModelResponse(alias=self._alias(request.alias))

    async def PreviewSelection(self, request: pb.PreviewSelectionRequest, context: Context) -> pb.PreviewSelectionResponse:
        """theta % of 200 rows, of which the better half of the kept is right."""
        run = self._find(request.run).run
        previews = [
            pb.SelectionPreview(theta=theta, threshold=theta / 100, selected_count=round(2 * theta), pseudo_label_accuracy=0.5)
            for theta in request.thetas
        ]
        return pb.PreviewSelectionResponse(run_id=run.id, iteration=1, theta=50, previews=previews, row_count=200)

    async def ExplainRow(self, request: pb.ExplainRowRequest, context: Context) -> pb.ExplainRowResponse:
        """Of `row-1`, the only row there is."""
        run = self._find(request.run).run
        if request.row_id != "row-1":
            raise errors.NotFound(f"The run {run.id} has no unlabeled row {request.row_id!r}.", field="row_id")
        return example_explanation(run.id)

    async def Diagnose(self, request: pb.DiagnoseRequest, context: Context) -> pb.DiagnoseResponse:
        return pb.DiagnoseResponse(findings=self.findings, version=self.version)

    def _find(self, name: str) -> ScriptedRun:
        for scripted in self.runs.values():
            if name in (scripted.run.id, scripted.run.spec.name):
                return scripted
        raise errors.NotFound(f"There is no run {name!r}.", field="run")

    def _models(self) -> list[pb.Model]:
        events = [event for scripted in self.runs.values() for event in scripted.events]
        return [event.model_registered.model for event in events if event.WhichOneof("event") == "model_registered"]

    def _alias(self, name: str) -> pb.Alias:
        history = self.aliases[name]
        canary, weight = self.canaries.get(name, ("", 0))
        return pb.Alias(name=name, model=history[0], previous_models=history[1:], canary_model=canary, canary_weight=weight)


def service(servicer: FakeControllerServicer) -> Service:
    """The fake as a service of a real server."""

    async def probe() -> None:
        return None

    def register(server: grpc.aio.Server) -> None:
        pb_grpc.add_ControllerServiceServicer_to_server(servicer, server)

    return Service("semievol.controller.v1.ControllerService", register, probe)
