"""Eq. 4: the collaborators of one configuration answer one shard of the unlabeled rows."""

from __future__ import annotations

from semievol.algorithm import semievol
from semievol.algorithm.types import Collaborator, Weights
from semievol.ports import Sampling
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    shown = step.params["configuration"]
    collaborators = [Collaborator(Weights(shown["model"]), shown["references"], sample) for sample in range(shown["samples"])]
    sampling = Sampling(temperature=step.params["temperature"], max_tokens=step.params["max_tokens"])
    model, references = step.model(), step.references()
    lines = []
    for page in step.pages(step.rows("rows")):
        answers = semievol.collaborate(
            step.services.generation,
            model,
            collaborators,
            page,
            references,
            step.task,
            sampling,
            step.params["seed"],
            cancel=step.cancel,
        )
        lines += [records.candidate_to_record(row.id, candidate) for row in page for candidate in answers[row.id]]
    return {"candidates.jsonl": records.to_lines(lines)}
