"""RunSpec and controller states <-> semievol.controller.v1."""

from __future__ import annotations

from typing import Any

from semievol.common import errors
from semievol.common.runspec import RunSpec, parse_run_spec
from semievol.common.v1 import task_pb2
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
)
_OPTIONALS = ("references", "theta", "in_weight", "include_labeled", "temperature", "max_no_answer")
_TRAIN = ("epochs", "learning_rate", "lora_rank", "lora_alpha", "batch_size", "gradient_accumulation", "max_tokens", "references")


def spec_to_wire(spec: RunSpec) -> pb.RunSpec:
    message = pb.RunSpec(**{name: getattr(spec, name) for name in (*_SCALARS, *_OPTIONALS)})
    message.data.CopyFrom(pb.DataSpec(**spec.data.model_dump()))
    message.task.CopyFrom(
        task_pb2.Task(
            type=task_pb2.TaskType.Value(f"TASK_TYPE_{spec.task.type.name}"),
            answer=task_pb2.AnswerForm.Value(f"ANSWER_FORM_{spec.task.answer.name}"),
            instruction=spec.task.instruction,
        )
    )
    if isinstance(spec.collaborators, int):
        message.collaborator_count = spec.collaborators
    else:
        message.collaborators.extend(
            pb.CollaboratorSpec(model=one.model, references=one.references) for one in spec.collaborators
        )
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
    value["task"] = {"instruction": message.task.instruction}
    if message.task.type:
        value["task"]["type"] = task_pb2.TaskType.Name(message.task.type).removeprefix("TASK_TYPE_").lower()
    if message.task.answer:
        value["task"]["answer"] = task_pb2.AnswerForm.Name(message.task.answer).removeprefix("ANSWER_FORM_").lower()
    if message.collaborator_count:
        value["collaborators"] = message.collaborator_count
    elif message.collaborators:
        value["collaborators"] = [{"model": one.model, "references": one.references} for one in message.collaborators]
    value["train"] = {name: getattr(message.train, name) for name in _TRAIN if getattr(message.train, name)}
    return parse_run_spec(value, source="the run's spec")
