"""Eq. 5: verdicts on one shard of the unlabeled rows, by the judging service."""

from __future__ import annotations

from semievol.ports import JudgeRequest
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    candidates, model = step.candidates(), step.model()
    lines = []
    for page in step.pages(step.rows("rows")):
        verdicts = step.services.judging.judge(
            model,
            step.task,
            [JudgeRequest(row, tuple(candidates[row.id])) for row in page],
            judge_all=step.params["judge"] == "all",
            max_tokens=step.params["max_tokens"],
            cancel=step.cancel,
        )
        lines += [records.verdict_to_record(verdict) for verdict in verdicts]
    return {"verdicts.jsonl": records.to_lines(lines)}
