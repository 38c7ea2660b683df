"""What a step sees of the world: its work, its input files, the services, and a way to report progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from semievol.algorithm.types import AnswerForm, Candidate, Row, Task, TaskType, Verdict
from semievol.client.services import Services
from semievol.common import errors
from semievol.common.artifacts import Artifacts, File, uri
from semievol.common.keys import adapter_name
from semievol.common.trained_models import naming_file
from semievol.ports import BASE_MODEL, Cancel
from semievol.steps import records

T = TypeVar("T")
Emit = Callable[[Mapping[str, object]], None]

PAGE_ROWS = 64  # rows per call: enough for a backend to form batches by length, few enough to report progress


@dataclass(frozen=True, slots=True)
class StepInput:
    """One input file of this job."""

    key: str
    file: File


@dataclass
class StepContext:
    """One job of one step. `shard` is None where the step is not sharded; `inputs` holds only what this shard reads.

    `scratch`: a directory for large outputs, which is gone when they are published.
    """

    artifacts: Artifacts
    services: Services
    params: Mapping[str, Any]
    inputs: Mapping[str, Sequence[StepInput]]
    shard: int | None
    cancel: Cancel
    emit: Emit
    scratch: Path

    @property
    def task(self) -> Task:
        task = self.params["task"]
        return Task(TaskType(task["type"]), AnswerForm(task["answer"]), task.get("instruction", ""), tuple(task["options"]))

    def lines(self, role: str) -> Iterator[Any]:
        """The records of all files of a role, one file in memory at a time; nothing if the step does not read it."""
        for entry in self.inputs.get(role, ()):
            yield from self.artifacts.read_json_lines(entry.file)

    def parts(self, *roles: str) -> Iterator[tuple[list[Any], ...]]:
        """The records of roles that are cut into the same parts, part by part."""
        for entries in zip(*(self.inputs[role] for role in roles), strict=True):
            yield tuple(self.artifacts.read_json_lines(entry.file) for entry in entries)

    def rows(self, role: str) -> list[Row]:
        """In row-id order."""
        return sorted((records.row_from_record(record) for record in self.lines(role)), key=lambda row: row.id)

    def candidates(self, role: str = "candidates") -> dict[str, list[Candidate]]:
        """Row id -> its candidates, in collaborator order."""
        found: dict[str, list[Candidate]] = {}
        for record in self.lines(role):
            found.setdefault(record["id"], []).append(records.candidate_from_record(record))
        return found

    def verdicts(self) -> dict[str, Verdict]:
        return {record["id"]: records.verdict_from_record(record) for record in self.lines("verdicts")}

    def references(self) -> dict[str, list[Row]]:
        """Row id -> its references N(t_j), nearest first; empty where the step reads none."""
        library = {row.id: row for row in self.rows("library")}
        return {record["id"]: [library[reference] for reference in record["references"]] for record in self.lines("references")}

    def model(self) -> str:
        """The served name of the weights in role `model`, loaded if need be; the base where the step reads none."""
        entries = self.inputs.get("model", ())
        if not entries:
            return BASE_MODEL
        named_by = naming_file(entry.file for entry in entries)
        return self.services.generation.load_adapter(adapter_name(named_by.sha256), uri(entries[0].key)).name

    def pages(self, items: Sequence[T], unit: str = "rows") -> Iterator[Sequence[T]]:
        """Pages of PAGE_ROWS with progress after each; stops with Cancelled when asked to."""
        self.progress(0, len(items), unit)
        for start in range(0, len(items), PAGE_ROWS):
            if self.cancel.is_set():
                raise errors.Cancelled("The step was cancelled.")
            page = items[start : start + PAGE_ROWS]
            yield page
            self.progress(start + len(page), len(items), unit)

    def progress(self, done: int, total: int, unit: str) -> None:
        self.emit({"progress": {"done": done, "total": total, "unit": unit}})
