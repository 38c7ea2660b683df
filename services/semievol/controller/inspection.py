"""Looking into what a run has published: what another theta would keep, and everything about one row. No model is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from semievol.algorithm.prompts import response_text
from semievol.algorithm.selection import entropy, select
from semievol.algorithm.statistics import pseudo_label_accuracy
from semievol.algorithm.types import Candidate, Row, Verdict
from semievol.common import errors
from semievol.common.artifacts import Artifacts, File, Look
from semievol.controller.plan import StepPlan, StepState, files_of
from semievol.controller.runs import RunRecord, RunStore
from semievol.steps import records

MOST_THETAS = 101


@dataclass(frozen=True, slots=True)
class SelectionPreview:
    """`threshold`: tau, nats per token. `accuracy`: of the kept pseudo-labels, 0..1; None where no true answers are known."""

    theta: float
    threshold: float | None
    selected: int
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class SelectionPreviews:
    """`excluded`: rows without an answer or an entropy, which no theta keeps."""

    record: RunRecord
    iteration: int
    previews: list[SelectionPreview]
    rows: int
    excluded: int


@dataclass
class Explanation:
    """What a run knows of one row; None or empty for what is not done yet. `reference_rows`: N(t_j), nearest first."""

    record: RunRecord
    iteration: int
    row: Row
    reference_rows: list[Row]
    candidates: list[Candidate]
    verdict: Verdict | None = None
    entropy: float | None = None
    threshold: float | None = None
    fate: str = ""
    true_answer: str = ""


class Inspector:
    """Reads manifests and artifacts, verified as always."""

    def __init__(self, artifacts: Artifacts, runs: RunStore) -> None:
        self._artifacts = artifacts
        self._runs = runs

    def preview(self, name: str, thetas: Sequence[float], iteration: int = 0) -> SelectionPreviews:
        """`iteration` 0: the last one that has entropies. Raises NotFound, InvalidInput (theta), Conflict (not got so far)."""
        if not 1 <= len(thetas) <= MOST_THETAS:
            raise errors.InvalidInput(f"Give 1 to {MOST_THETAS} values of theta.", field="thetas")
        record = self._runs.find(name)
        steps = self._steps(record)
        scored = [step for step in steps if step.name == "score" and step.state is StepState.DONE]
        chosen = [step for step in scored if iteration in (0, step.iteration)]
        if not chosen:
            raise errors.Conflict(
                f"The run {record.id} has no entropies yet{_where(iteration)}: its step score is not done.",
                field="run",
            )
        of = _Iteration(steps, chosen[-1].iteration)
        entropies = {line["id"]: records.entropy_from_record(line) for line in self._lines(of.step("score"), "entropies.jsonl")}
        labeled = [
            value
            for line in self._lines(of.find("score-labeled"), "entropies.jsonl")
            if (value := records.entropy_from_record(line)) is not None
        ]
        accuracy = self._accuracy(record, of)
        previews = []
        for theta in thetas:
            selection = select(entropies, theta, threshold_entropies=labeled or None)
            previews.append(SelectionPreview(theta, selection.threshold, len(selection.selected), accuracy(selection.selected)))
        excluded = sum(value is None or not math.isfinite(value) for value in entropies.values())
        return SelectionPreviews(record, of.number, previews, len(entropies), excluded)

    def explain(self, name: str, row_id: str, iteration: int = 0) -> Explanation:
        """`iteration` 0: the last one that has the row. Raises NotFound (run, row)."""
        record = self._runs.find(name)
        steps = self._steps(record)
        last = max(step.iteration for step in steps)
        for number in [iteration] if iteration else range(last, 0, -1):
            of = _Iteration(steps, number)
            found = self._find_row(of, row_id)
            if found:
                return self._explained(record, of, *found)
        raise errors.NotFound(f"The run {record.id} has no unlabeled row {row_id!r}{_where(iteration)}.", field="row_id")

    def _steps(self, record: RunRecord) -> list[StepPlan]:
        return record.plan(Look(self._artifacts, verify=False))

    def _explained(self, record: RunRecord, of: _Iteration, row: Row, part: int) -> Explanation:
        def mine(step: StepPlan | None, path: str) -> list[dict[str, Any]]:
            return [line for line in self._lines(step, path, part) if line["id"] == row.id]

        library = {one["id"]: one for file in of.labeled() for one in self._artifacts.read_json_lines(file)}
        nearest: list[str] = next((line["references"] for line in mine(of.find("retrieve"), f"references/{part:05d}.jsonl")), [])
        shown = max((one.references for one in record.spec.collaborator_list()), default=0)
        found = Explanation(
            record,
            of.number,
            row,
            [records.row_from_record(library[one]) for one in nearest[:shown] if one in library],
            [records.candidate_from_record(line) for step in of.all("infer/") for line in mine(step, "candidates.jsonl")],
        )
        verdict = next(iter(mine(of.find("judge"), "verdicts.jsonl")), None)
        found.verdict = records.verdict_from_record(verdict) if verdict else None
        found.entropy = next((line.get("entropy") for line in mine(of.find("score"), "entropies.jsonl")), None)
        found.fate = next((line["reason"] for line in mine(of.find("select"), "fates.jsonl")), "")
        summary = next(iter(self._files(of.find("select"), "selection.json")), None)
        found.threshold = json.loads(self._artifacts.read(summary))["threshold"] if summary else None
        found.true_answer = self._gold(of).get(row.id, "")
        return found

    def _find_row(self, of: _Iteration, row_id: str) -> tuple[Row, int] | None:
        """The row and its part. Rows are in the order of their ids over all parts, so few parts have to be read."""
        parts = of.unlabeled()
        low, high = 0, len(parts)
        while low < high:
            middle = (low + high) // 2
            lines = self._artifacts.read_json_lines(parts[middle])
            for line in lines:
                if line["id"] == row_id:
                    return records.row_from_record(line), middle
            low, high = (low, middle) if row_id < lines[0]["id"] else (middle + 1, high)
        return None

    def _accuracy(self, record: RunRecord, of: _Iteration) -> Any:
        """Ids of kept rows -> share of right pseudo-labels, or None."""
        gold = self._gold(of)
        if not gold:
            return lambda selected: None
        task = record.spec.task.task()
        lines = (line for file in of.unlabeled() for line in self._artifacts.read_json_lines(file))
        rows = {line["id"]: records.row_from_record(line) for line in lines}
        verdicts = {line["id"]: records.verdict_from_record(line) for line in self._lines(of.find("judge"), "verdicts.jsonl")}
        return lambda selected: pseudo_label_accuracy(selected, verdicts, gold, rows, task)

    def _gold(self, of: _Iteration) -> dict[str, str]:
        """Row id -> true answer, where the unlabeled file carries them."""
        return {line["id"]: line["answer"] for file in of.gold() for line in self._artifacts.read_json_lines(file)}

    def _lines(self, step: StepPlan | None, path: str, part: int | None = None) -> Iterator[dict[str, Any]]:
        for file in self._files(step, path, part):
            yield from self._artifacts.read_json_lines(file)

    def _files(self, step: StepPlan | None, path: str, part: int | None = None) -> Iterator[File]:
        """A step's files of one name or (`x/`) directory, of all its shards, or of the part's where it is sharded."""
        for one in files_of(step, path) if step else ():
            if part is None or one.shard in (None, part):
                yield one.file


class _Iteration:
    """The steps of one iteration, and the files that it begins with: those that its steps read, or, before they are known, those of
    the step that comes before."""

    def __init__(self, steps: Sequence[StepPlan], number: int) -> None:
        self.number = number
        self._steps = [step for step in steps if step.iteration == number]
        writer = (0, "intake") if number <= 1 else (number - 1, "select")
        self._before = next((step for step in steps if (step.iteration, step.name) == writer), None)
        self._intake = steps[0]

    def labeled(self) -> list[File]:
        return self._read("index", "rows") or self._written(self._before, "labeled.jsonl")

    def unlabeled(self) -> list[File]:
        """In the order of their parts."""
        return self._read("retrieve", "rows") or self._written(self._before, "unlabeled/")

    def gold(self) -> list[File]:
        return self._read("report", "gold") or self._written(self._intake, "gold.jsonl")

    def find(self, name: str) -> StepPlan | None:
        return next((step for step in self._steps if step.name == name), None)

    def step(self, name: str) -> StepPlan:
        found = self.find(name)
        assert found is not None
        return found

    def all(self, prefix: str) -> list[StepPlan]:
        return [step for step in self._steps if step.name.startswith(prefix)]

    def _read(self, name: str, role: str) -> list[File]:
        step = self.find(name)
        return [one.file for one in step.work.inputs.get(role, ())] if step and step.work else []

    def _written(self, step: StepPlan | None, path: str) -> list[File]:
        return [one.file for one in files_of(step, path)] if step else []


def sampled_entropy(candidate: Candidate) -> float | None:
    """Mean negative log-likelihood of a candidate as it was written; None for an empty one."""
    value = entropy(candidate.token_logprobs)
    return value if math.isfinite(value) else None


def shown_response(row: Row, record: RunRecord) -> str:
    """A reference's response as prompts show it."""
    return response_text(row, record.spec.task.task())


def _where(iteration: int) -> str:
    return f" in iteration {iteration}" if iteration else ""
