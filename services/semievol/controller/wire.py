"""RunSpec and controller states <-> semievol.controller.v1."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from semievol.common import errors
from semievol.common.registry import Alias, Model
from semievol.common.runspec import RunSpec, parse_run_spec
from semievol.common.wire import task_from_wire, task_to_wire
from semievol.controller.core import RunView, StepView
from semievol.controller.exporting import ExportedRow
from semievol.controller.jobs import Progress
from semievol.controller.plan import StepPlan, StepState
from semievol.controller.runs import Event
from semievol.controller.v1 import controller_service_pb2 as pb

_SCALARS = (
    "name",
    "model",
    "embedding",
    "iterations",
    "seed",
    "judge",
    "entropy_source",
    "threshold_reference",
    "max_tokens",
    "bad_rows",
    "shard_rows",
    "engine",
    "placement",
    "trainer",
)
_OPTIONALS = ("references", "theta", "in_weight", "include_labeled", "temperature", "max_no_answer")
_TRAIN = ("epochs", "learning_rate", "lora_rank", "lora_alpha", "batch_size", "gradient_accumulation", "max_tokens", "references")


def spec_to_wire(spec: RunSpec) -> pb.RunSpec:
    message = pb.RunSpec(**{name: getattr(spec, name) for name in (*_SCALARS, *_OPTIONALS)})
    message.data.CopyFrom(pb.DataSpec(**spec.data.model_dump()))
    message.task.CopyFrom(task_to_wire(spec.task.task()))
    if isinstance(spec.collaborators, int):
        message.collaborator_count = spec.collaborators
    else:
        message.collaborators.extend(
            pb.CollaboratorSpec(model=one.model, references=one.references) for one in spec.collaborators
        )
    message.gate.CopyFrom(pb.GateSpec(holdout=spec.gate.holdout, min_gain=spec.gate.min_gain))
    message.train.CopyFrom(pb.TrainSpec(**{name: getattr(spec.train, name) for name in _TRAIN}))
    return message


def spec_from_wire(message: pb.RunSpec) -> RunSpec:
    """Zero values stand for defaults. Raises InvalidInput(field=)."""
    if message.collaborators and message.collaborator_count:
        raise errors.InvalidInput("Give collaborator_count or collaborators, not both.", field="collaborators")
    value: dict[str, Any] = {name: getattr(message, name) for name in _SCALARS if getattr(message, name)}
    value |= {name: getattr(message, name) for name in _OPTIONALS if message.HasField(name)}  # type: ignore[arg-type]
    value["data"] = {
        name: getattr(message.data, name) for name in ("labeled", "unlabeled", "test", "dev") if getattr(message.data, name)
    }
    if message.data.map:
        value["data"]["map"] = dict(message.data.map)
    task = task_from_wire(message.task)
    value["task"] = {"type": task.type, "answer": task.answer, "instruction": task.instruction, "options": list(task.options)}
    if message.collaborator_count:
        value["collaborators"] = message.collaborator_count
    elif message.collaborators:
        value["collaborators"] = [{"model": one.model, "references": one.references} for one in message.collaborators]
    gate = message.gate
    value["gate"] = {"holdout": gate.holdout if gate.HasField("holdout") else None, "min_gain": gate.min_gain}
    value["train"] = {name: getattr(message.train, name) for name in _TRAIN if getattr(message.train, name)}
    return parse_run_spec(value, source="the run's spec")


_STATES = {
    "waiting": pb.STATE_WAITING,
    "running": pb.STATE_RUNNING,
    "succeeded": pb.STATE_SUCCEEDED,
    "failed": pb.STATE_FAILED,
    "cancelled": pb.STATE_CANCELLED,
}


def run_to_wire(view: RunView) -> pb.Run:
    run = pb.Run(id=view.record.id, state=_STATES[view.state], error=view.error, error_class=view.error_class)
    run.last_start_number = view.last_start_number
    run.spec.CopyFrom(spec_to_wire(view.record.spec))
    run.steps.extend(step_to_wire(step) for step in view.steps)
    run.create_time.FromMicroseconds(int(view.record.create_time * 1e6))
    if view.result is not None:
        run.result_json = json.dumps(view.result)
    return run


def step_to_wire(view: StepView) -> pb.StepStatus:
    step, progress = view.step, view.progress
    shards = len(step.work.shards) if step.work else 0
    return pb.StepStatus(
        iteration=step.iteration,
        name=step.name,
        state=_STATES[view.state],
        key=step.work.key if step.work else "",
        shard_count=shards,
        shards_done=shards - len(step.missing),
        reused=view.reused,
        progress_done=progress.done,
        progress_total=progress.total,
        progress_unit=progress.unit if progress.total else "",
        waiting_reason=view.waiting_reason,
    )


def planned_step_to_wire(step: StepPlan) -> pb.StepStatus:
    """A step of a dry run: done steps would be reused."""
    done = step.state is StepState.DONE
    return step_to_wire(StepView(step, "succeeded" if done else "waiting", done, Progress()))


def event_to_wire(event: Event, model_of: Callable[[str], pb.Model | None]) -> pb.RunEvent:
    """`model_of`: a registered model by name."""
    kind = event["type"]
    message = pb.RunEvent(number=event["number"])
    message.event_time.FromMicroseconds(int(event["time"] * 1e6))
    body = getattr(message, kind)
    body.SetInParent()
    if kind == "model_registered":
        if model := model_of(event["model"]):
            body.model.CopyFrom(model)
        return message
    for name, value in event.items():
        if isinstance(value, list):
            getattr(body, name).extend(value)
        elif name not in ("type", "number", "time"):
            setattr(body, name, value)
    return message


def exported_row_to_wire(exported: ExportedRow) -> pb.TrainingRow:
    row, example, verdict = exported.row, exported.example, exported.verdict or {}
    message = pb.TrainingRow(
        id=row["id"],
        source=example["source"],
        question=row["question"],
        options=row.get("options", ()),
        answer=row.get("answer", ""),
        category=row.get("category", ""),
        completion=example["completion"],
        decision=verdict.get("decision", ""),
        iteration=exported.iteration,
        model=exported.model,
        agreement=verdict.get("agreement"),
        entropy=exported.entropy,
    )
    for part in example["prompt"]:
        message.prompt.add(role=part["role"], content=part["content"])
    for one in exported.candidates:
        message.candidates.add(
            collaborator=one["collaborator"], text=one["text"], answer=one.get("answer", ""), no_answer=one.get("no_answer", "")
        )
    return message


def model_to_wire(model: Model, directory: str | None) -> pb.Model:
    values = {name: getattr(model, name) for name in ("name", "role", "run", "iteration", "base", "uri", "sha256", "accuracy")}
    return pb.Model(**values, directory=directory or "")


def alias_to_wire(alias: Alias) -> pb.Alias:
    return pb.Alias(
        name=alias.name,
        model=alias.model,
        previous_models=alias.previous,
        canary_model=alias.canary,
        canary_weight=alias.weight,
    )
