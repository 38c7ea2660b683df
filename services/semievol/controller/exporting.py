"""The rows that an iteration's model was trained on, each with how its answer came about: what `semievol export` writes.

Everything is in row-id order in the artifacts, so the training set and the shards that tell its story are read side by side, and no more
than a shard of each iteration is held in memory.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.controller.plan import StepPlan, StepState

PAGE_BYTES = 256 * 1024  # about; of a message

Record = dict[str, Any]
ModelOf = Callable[[int], str]  # iteration -> the name of the model that judged and scored in it


@dataclass(frozen=True, slots=True)
class ExportedRow:
    """`row`: as in the training set (question, options, answer, category); `example`: what was trained on (prompt, completion, source).

    Of a pseudo-label: the `iteration` that selected it, the `model` that judged and scored it, the judge's `verdict`, its `entropy` in
    nats per token, and the collaborators' `candidates`. Of a labeled row: 0, and nothing.
    """

    row: Record
    example: Record
    iteration: int = 0
    model: str = ""
    verdict: Record | None = None
    entropy: float | None = None
    candidates: tuple[Record, ...] = ()


def exported_iteration(steps: Sequence[StepPlan], wanted: int, run: str) -> int:
    """Of a run's steps: the wanted iteration, or with 0 the last one whose training set is made. Raises NotFound, Conflict."""
    known = sorted({step.iteration for step in steps if step.iteration})
    made = [step.iteration for step in steps if step.name == "examples-evolve" and step.state is StepState.DONE]
    if wanted and wanted not in known:
        raise errors.NotFound(
            f"The run {run} has no iteration {wanted} (yet); it has {', '.join(map(str, known)) or 'none'}.", field="iteration"
        )
    if not made or (wanted and wanted not in made):
        raise errors.Conflict(
            f"The run {run} has not selected its pseudo-labels{f' of iteration {wanted}' if wanted else ''} yet.", field="run"
        )
    return wanted or max(made)


def pages(artifacts: Artifacts, steps: Sequence[StepPlan], iteration: int, model_of: ModelOf) -> Iterator[list[ExportedRow]]:
    """The pseudo-labels, those of earlier iterations included, then the labeled rows; each in row-id order. Raises Corrupt, StorageError.

    Pseudo-labels come first because readers of JSON lines take a column's type from the first rows that they see.
    """
    page: list[ExportedRow] = []
    size = 0
    for row in itertools.chain(_pseudo(artifacts, steps, iteration, model_of), _labeled(artifacts, steps, iteration)):
        page.append(row)
        size += 256 + len(str(row.example)) + sum(len(one["text"]) + 64 for one in row.candidates)
        if size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _labeled(artifacts: Artifacts, steps: Sequence[StepPlan], iteration: int) -> Iterator[ExportedRow]:
    for row, example in _training_set(artifacts, steps, iteration):
        if example["source"] != "pseudo":
            yield ExportedRow(row, example)


def _pseudo(artifacts: Artifacts, steps: Sequence[StepPlan], iteration: int, model_of: ModelOf) -> Iterator[ExportedRow]:
    """A row that was not selected is asked again in the next iteration: the last one that asked it selected it."""
    stories = heapq.merge(*(_stories(artifacts, steps, one) for one in range(1, iteration + 1)), key=lambda story: story[:2])
    by_row = itertools.groupby(stories, key=lambda story: story[0])
    for row, example in _training_set(artifacts, steps, iteration):
        if example["source"] == "pseudo":
            same = next((group for row_id, group in by_row if row_id == row["id"]), iter(()))
            last = [*same][-1:]
            if not last:
                raise errors.Corrupt(f"The artifacts of the run do not say how row {row['id']!r} got its answer.")
            _, number, verdict, entropy, candidates = last[0]
            yield ExportedRow(row, example, number, model_of(number), verdict, entropy, candidates)


def _training_set(artifacts: Artifacts, steps: Sequence[StepPlan], iteration: int) -> Iterator[tuple[Record, Record]]:
    """(row, training example) in row-id order, the same rows in both files."""
    rows = artifacts.stream_json_lines(_step(steps, iteration, "select").manifests[None].file("evolution.jsonl"))
    examples = artifacts.stream_json_lines(_step(steps, iteration, "examples-evolve").manifests[None].file("train.jsonl"))
    for row, example in zip(rows, examples, strict=True):
        if row["id"] != example["row_id"]:
            raise errors.Corrupt(f"The training set of iteration {iteration} and its rows differ at {row['id']!r}.")
        yield row, example


def _stories(
    artifacts: Artifacts, steps: Sequence[StepPlan], iteration: int
) -> Iterator[tuple[str, int, Record, float | None, tuple[Record, ...]]]:
    """(row id, iteration, verdict, entropy, candidates) of every unlabeled row of an iteration, shard by shard, in row-id order."""
    judge, score = _step(steps, iteration, "judge"), _step(steps, iteration, "score")
    infers = [step for step in steps if step.iteration == iteration and step.name.startswith("infer/")]
    for shard in sorted(judge.manifests, key=lambda shard: -1 if shard is None else shard):
        entropies = {
            line["id"]: line["entropy"] for line in artifacts.read_json_lines(score.manifests[shard].file("entropies.jsonl"))
        }
        candidates: dict[str, list[Record]] = {}
        for infer in infers:
            for line in artifacts.read_json_lines(infer.manifests[shard].file("candidates.jsonl")):
                candidates.setdefault(line["id"], []).append(line)
        for verdict in artifacts.read_json_lines(judge.manifests[shard].file("verdicts.jsonl")):
            row_id = verdict["id"]
            yield row_id, iteration, verdict, entropies.get(row_id), tuple(candidates.get(row_id, ()))


def _step(steps: Sequence[StepPlan], iteration: int, name: str) -> StepPlan:
    return next(step for step in steps if step.iteration == iteration and step.name == name)
