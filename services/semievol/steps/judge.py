"""Eq. 5: verdicts on one shard of the unlabeled rows, by the judging service; where engines belong to runs it does not know which one to ask,
and its core does the same work here, over the engine that this job was given."""

from __future__ import annotations

from semievol.judging.core import JudgingCore
from semievol.ports import Judge, JudgeRequest
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    candidates, model = step.candidates(), step.model()
    judge: Judge = step.services.judging if step.services.has("judging") else JudgingCore(step.services.generation)
    lines = []
    for page in step.pages(step.rows("rows")):
        verdicts = judge.judge(
            model,
            step.task,
            [JudgeRequest(row, tuple(candidates[row.id])) for row in page],
            judge_all=step.params["judge"] == "all",
            max_tokens=step.params["max_tokens"],
            cancel=step.cancel,
        )
        lines += [records.verdict_to_record(verdict) for verdict in verdicts]
    return {"verdicts.jsonl": records.to_lines(lines)}
