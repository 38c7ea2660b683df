"""What `semievol data check` finds out about data files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semievol.algorithm.prompts import plain_prompt, response_text
from semievol.algorithm.types import AnswerForm, Row, Task, TaskType
from semievol.cli.runfiles import ROLES, read_run_file
from semievol.common import errors
from semievol.data.formats import MAX_ROW_BYTES, Record, read_table
from semievol.data.intake import DataSet, Role, load
from semievol.data.overlaps import check_ids, overlaps

_ALL_BUT_NONE = 1 - 1e-9  # any share of bad rows will do, as long as there is a good one

__all__ = ["check_ids", "of_files", "of_run_file", "report"]


def of_run_file(path: Path) -> tuple[Task, list[DataSet]]:
    """The run's task and its local files, bad rows kept apart instead of refused. Raises NotFound, InvalidInput."""
    spec = read_run_file(path)
    task = spec.task.task()
    files = {Role(role): value for role in ROLES if (value := getattr(spec.data, role)) and not value.startswith("data:")}
    return task, [_load(Path(value), task, role) for role, value in files.items()]


def of_files(files: Sequence[Path], task_type: str | None, answer: str) -> tuple[Task, list[DataSet]]:
    """Roles and the task's type are guessed from the columns: with answers a file is labeled, with options the task is a choice."""
    columns = {path: _columns(path) for path in files}
    guessed = TaskType.CHOICE if any("options" in names for names in columns.values()) else TaskType.TEXT
    task = Task(TaskType(task_type) if task_type else guessed, AnswerForm(answer))
    return task, [_load(path, task, Role.LABELED if "answer" in columns[path] else Role.UNLABELED) for path in files]


def _load(path: Path, task: Task, role: Role) -> DataSet:
    """A file without a single good row is a finding, too. Raises NotFound, StorageError, InvalidInput (no row at all)."""
    try:
        return load(path, task, role, on_bad="quarantine", max_bad_share=_ALL_BUT_NONE)
    except errors.InvalidInput as error:
        if not error.rows:
            raise
        return DataSet(str(path), role, path.suffix.lower().removeprefix("."), bad=error.rows)


def _columns(path: Path) -> set[str]:
    """The header's columns, or the first object's keys. A file that cannot be read has none: `load` says what is wrong with it."""
    try:
        with path.open("rb") as file:
            table = read_table(path, file, MAX_ROW_BYTES)
            if table.columns is not None:
                return set(table.columns)
            return next((set(record.values) for record in table.records if isinstance(record, Record)), set())
    except Exception:
        return set()


def report(task: Task, datasets: Sequence[DataSet], examples: int) -> dict[str, Any]:
    """The findings as JSON values."""
    return {
        "task": {"type": task.type.value, "answer": task.answer.value, "instruction": task.instruction},
        "files": [
            {
                "file": data.file,
                "role": data.role.value,
                "format": data.format,
                "rows": len(data.rows),
                "answers": len(data.answers),
                "columns": dict(data.columns),
                "duplicates": data.duplicates,
                "bad_rows": [{"file": row.file, "line": row.line, "reason": row.reason} for row in data.bad],
            }
            for data in datasets
        ],
        "examples": [_example(task, data, row) for data in datasets[:1] for row in data.rows[:examples]],
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
    }


def _example(task: Task, data: DataSet, row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "file": f"{data.file}:{data.lines[row.id]}",
        "prompt": plain_prompt(row, task)[-1].content,
        "response": response_text(row, task) if row.answer is not None else None,
    }
