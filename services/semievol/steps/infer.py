"""Eq. 4: one collaborator answers one shard of the unlabeled rows."""

from __future__ import annotations

from semievol.algorithm import semievol
from semievol.algorithm.types import Collaborator, Weights
from semievol.ports import Sampling
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    shown = step.params["collaborator"]
    collaborator = Collaborator(Weights(shown["model"]), shown["references"], shown["sample"])
    sampling = Sampling(temperature=step.params["temperature"], max_tokens=step.params["max_tokens"])
    model, references = step.model(), step.references()
    lines = []
    for page in step.pages(step.rows("rows")):
        answers = semievol.collaborate(
            step.services.generation,
            model,
            collaborator,
            page,
            references,
            step.task,
            sampling,
            step.params["seed"],
            cancel=step.cancel,
        )
        lines += [records.candidate_to_record(row.id, answers[row.id]) for row in page]
    return {"candidates.jsonl": records.to_lines(lines)}
