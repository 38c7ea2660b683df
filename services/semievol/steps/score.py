"""Eq. 6: H of one shard of pseudo-responses (or, for `threshold_reference: labeled`, of the labeled responses) under M_warm."""

from __future__ import annotations

import math

from semievol.algorithm import semievol
from semievol.algorithm.prompts import plain_prompt, response_text
from semievol.algorithm.selection import entropy
from semievol.algorithm.types import Row
from semievol.ports import Prompt, Sampling
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    rows, model = step.rows("rows"), step.model()
    found: dict[str, float | None] = {}
    if step.params["source"] == "generated" and "candidates" in step.inputs:
        found = _generated(step, rows, model)
    else:
        verdicts = step.verdicts()
        responses = (
            {row_id: verdict.response for row_id, verdict in verdicts.items()}
            if "verdicts" in step.inputs
            else {row.id: response_text(row, step.task) for row in rows}
        )
        for page in step.pages(rows):
            found |= semievol.entropies(step.services.generation, model, responses, page, step.task, cancel=step.cancel)
    return {"entropies.jsonl": records.to_lines(_record(row.id, found[row.id]) for row in rows)}


def _generated(step: StepContext, rows: list[Row], model: str) -> dict[str, float | None]:
    """`entropy_source: generated`: what M_warm saw while it wrote y~_j; where another model wrote it, M_warm answers once more."""
    verdicts, candidates = step.verdicts(), step.candidates()
    found: dict[str, float | None] = {}
    missing = []
    for row in rows:
        verdict = verdicts[row.id]
        found[row.id] = semievol.generated_entropy(verdict, candidates[row.id], step.task)
        if found[row.id] is None and verdict.answer is not None:
            missing.append(row)
    sampling = Sampling(max_tokens=step.params["max_tokens"])
    for page in step.pages(missing):
        prompts = [Prompt(row.id, plain_prompt(row, step.task)) for row in page]
        for reply in step.services.generation.generate(model, prompts, sampling, cancel=step.cancel):
            found[reply.id] = entropy(reply.completions[0].token_logprobs)
    return found


def _record(row_id: str, value: float | None) -> records.Record:
    """A row without a finite H says so; NaN is not JSON."""
    if value is not None and not math.isfinite(value):
        return {"id": row_id, "entropy": None, "no_entropy": True}
    return {"id": row_id, "entropy": value}
