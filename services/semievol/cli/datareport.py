"""What `semievol data` finds out about data files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from semievol.algorithm.prompts import plain_prompt, response_text
from semievol.algorithm.types import AnswerForm, Row, Task, TaskType
from semievol.cli.runfiles import local_data, read_run_file
from semievol.common import errors
from semievol.common.columns import NO_MAP, check_map
from semievol.data import guess
from semievol.data.columns import ColumnReader
from semievol.data.formats import FORMATS
from semievol.data.intake import DataSet, Role, load
from semievol.data.near import NearOverlap
from semievol.data.overlaps import check_ids, overlaps
from semievol.data.sources import parse, parts

_ALL_BUT_NONE = 1 - 1e-9  # any share of bad rows will do, as long as there is a good one

__all__ = ["Findings", "check_ids", "of_files", "of_run_file", "report"]

_TASKS = {
    (TaskType.CHOICE, AnswerForm.LETTER): "multiple choice, answered by a letter",
    (TaskType.CHOICE, AnswerForm.TEXT): "multiple choice, answered by the option's words",
    (TaskType.NUMBER, AnswerForm.LETTER): "a number",
    (TaskType.NUMBER, AnswerForm.TEXT): "a number",
    (TaskType.TEXT, AnswerForm.LETTER): "free text",
    (TaskType.TEXT, AnswerForm.TEXT): "free text",
}


@dataclass
class Findings:
    """`names`: the map of the columns. `roles`: why each data set has its role. `embedding`: the model that near duplicates are looked for
    with."""

    task: Task
    type_reason: str
    datasets: list[DataSet]
    roles: list[str]
    names: Mapping[str, str]
    embedding: str = ""
    near: list[NearOverlap] = field(default_factory=list)


def of_run_file(path: Path) -> Findings:
    """The run's task and its local data, bad rows kept apart instead of refused. Raises NotFound, InvalidInput."""
    spec = read_run_file(path)
    task, sources = spec.task.task(), local_data(spec)
    datasets = [_load(value, task, Role(role), spec.data.map) for role, value in sources.items()]
    return Findings(
        task, "the run file says so", datasets, ["the run file says so"] * len(datasets), spec.data.map, spec.embedding
    )


def of_files(
    files: Sequence[str],
    task_type: str | None,
    answer: str,
    names: Mapping[str, str] = NO_MAP,
    role: str | None = None,
) -> Findings:
    """Roles and the task's type are guessed from names and columns (guess.py) where they are not given; a dataset without a named split is all
    of its splits. Raises NotFound, InvalidInput."""
    check_map(names)
    files = [part for file in files for part in parts(file)]
    seen = [guess.peek(file, names) for file in files]
    guess.check_mapped(seen, names)
    guessed, reason = guess.task_type(seen)
    task = Task(TaskType(task_type) if task_type else guessed, AnswerForm(answer))
    roles = [(Role(role), "you say so") if role else guess.role(file, one) for file, one in zip(files, seen, strict=True)]
    datasets = [_load(file, task, found, names) for file, (found, _) in zip(files, roles, strict=True)]
    return Findings(task, "you say so" if task_type else reason, datasets, [why for _, why in roles], names)


def of_one(file: str, task_type: str | None, answer: str, names: Mapping[str, str], role: str | None) -> Findings:
    """As `of_files`, for a command that reads one source alone. Raises InvalidInput for a dataset of several splits."""
    splits = parts(file)
    if len(splits) > 1:
        raise errors.InvalidInput(f"{file} has several splits; name one: {', '.join(splits[:5])}.")
    return of_files(splits, task_type, answer, names, role)


def _load(source: str, task: Task, role: Role, names: Mapping[str, str]) -> DataSet:
    """A source without a single good row is a finding, too. Raises NotFound, StorageError, InvalidInput (no row at all)."""
    try:
        return load(source, task, role, names=names, on_bad="quarantine", max_bad_share=_ALL_BUT_NONE)
    except errors.InvalidInput as error:
        if not error.rows:
            raise
        return DataSet(source, role, parse(source).path.suffix.lower().removeprefix("."), bad=error.rows)


def report(found: Findings, examples: int) -> dict[str, Any]:
    """The findings as JSON values."""
    task, datasets = found.task, found.datasets
    return {
        "task": {"type": task.type.value, "answer": task.answer.value, "instruction": task.instruction},
        "guess": _task_words(found),
        "files": [
            {
                "file": data.file,
                "role": data.role.value,
                "guess": _words(data, why, ColumnReader(found.names)),
                "format": data.format,
                "rows": len(data.rows),
                "answers": len(data.answers),
                "columns": dict(data.columns),
                "duplicates": data.duplicates,
                "bad_rows": [{"file": row.file, "line": row.line, "reason": row.reason} for row in data.bad],
            }
            for data, why in zip(datasets, found.roles, strict=True)
        ],
        "examples": [example(task, data, row) for data in datasets[:1] for row in data.rows[:examples]],
        "overlaps": [
            {
                "first": overlap.first.value,
                "second": overlap.second.value,
                "rows": overlap.count,
                "examples": list(overlap.examples),
                "warning": overlap.warning,
                "text": f"{overlap}.",
            }
            for overlap in overlaps(datasets)
        ],
        "near": [
            {
                "first": near.first.value,
                "second": near.second.value,
                "rows": near.count,
                "examples": [{"first": pair.first, "second": pair.second, "cosine": pair.cosine} for pair in near.pairs],
                "warning": near.warning,
                "text": f"{near}.",
            }
            for near in found.near
        ],
    }


def _task_words(found: Findings) -> str:
    """The task in a sentence, and what it rather is where free text has only a few different answers."""
    said = f"The task is {_TASKS[found.task.type, found.task.answer]} ({found.type_reason})."
    classes = guess.classes(found.datasets) if found.task.type is TaskType.TEXT else []
    if not classes:
        return said
    # as YAML has them: a class may be `no`, 0 or have a comma
    listed = yaml.safe_dump(classes, default_flow_style=True, allow_unicode=True, width=sys.maxsize).strip()
    return (
        f"{said} There are only {len(classes)} different answers, so it may be a classification: in the run file, "
        f"task: {{type: choice, answer: text, options: {listed}}}."
    )


def _words(data: DataSet, why: str, reader: ColumnReader) -> str:
    """What a source was taken for, in a sentence."""
    uses = {name: use for name, use in data.columns.items() if use != "metadata"}
    taken = ", ".join(use if name == use else f"{use} from {name!r}" for name, use in uses.items()) or "no column"
    other = [name for name, use in data.columns.items() if use == "metadata"]
    metadata = f"; metadata that no prompt sees: {', '.join(other[:10])}{', ...' if len(other) > 10 else ''}" if other else ""
    suggested = {} if data.bad else reader.suggested(data.columns)
    hint = f"; perhaps {' '.join(f'--map {ours}={theirs}' for ours, theirs in suggested.items())}" if suggested else ""
    kind = f"{data.format} file" if f".{data.format}" in FORMATS else data.format or "file"
    return f"taken as {data.role} ({why}); {kind}; {taken}{metadata}{hint}"


def example(task: Task, data: DataSet, row: Row) -> dict[str, Any]:
    """A row as a model sees it. An answer that is only for reports is no response."""
    return {
        "id": row.id,
        "file": f"{data.file}:{data.lines[row.id]}",
        "prompt": plain_prompt(row, task)[-1].content,
        "response": response_text(row, task) if row.answer is not None else None,
    }
