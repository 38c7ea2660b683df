"""Plain values <-> messages of semievol.common.v1 that several services share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from semievol.algorithm.types import AnswerForm, Task, TaskType
from semievol.common import errors
from semievol.common.v1 import task_pb2

K = TypeVar("K")  # an enum's code
T = TypeVar("T")

_TASK_TYPES = {
    task_pb2.TASK_TYPE_UNSPECIFIED: TaskType.CHOICE,
    task_pb2.TASK_TYPE_CHOICE: TaskType.CHOICE,
    task_pb2.TASK_TYPE_NUMBER: TaskType.NUMBER,
    task_pb2.TASK_TYPE_TEXT: TaskType.TEXT,
}
_ANSWER_FORMS = {
    task_pb2.ANSWER_FORM_UNSPECIFIED: AnswerForm.LETTER,
    task_pb2.ANSWER_FORM_LETTER: AnswerForm.LETTER,
    task_pb2.ANSWER_FORM_TEXT: AnswerForm.TEXT,
}
_TASK_TYPE_CODES = {value: code for code, value in _TASK_TYPES.items()}
_ANSWER_FORM_CODES = {value: code for code, value in _ANSWER_FORMS.items()}


def task_to_wire(task: Task) -> task_pb2.Task:
    return task_pb2.Task(
        type=_TASK_TYPE_CODES[task.type],
        answer=_ANSWER_FORM_CODES[task.answer],
        instruction=task.instruction,
        options=task.options,
    )


def task_from_wire(message: task_pb2.Task) -> Task:
    """Raises InvalidInput for a number that is none of the enum's."""
    return Task(
        known(_TASK_TYPES, message.type, "task.type"),
        known(_ANSWER_FORMS, message.answer, "task.answer"),
        message.instruction,
        tuple(message.options),
    )


def known(values: Mapping[K, T], code: K, field: str) -> T:
    """values[code]; InvalidInput(field=) for a code that the enum does not have."""
    if code not in values:
        raise errors.InvalidInput(f"{code} is not a value of this field.", field=field)
    return values[code]
