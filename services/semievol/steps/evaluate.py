"""Greedy answers of one model to the test rows, without references."""

from __future__ import annotations

from semievol.algorithm import semievol
from semievol.algorithm.answers import equal
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    model, lines = step.model(), []
    for page in step.pages(step.rows("rows")):
        answers = semievol.evaluate(
            step.services.generation, model, page, step.task, step.params["max_tokens"], cancel=step.cancel
        )
        for row in page:
            answer = answers[row.id].answer
            correct = equal(answer, semievol.true_answer(row, step.task), step.task)
            lines.append({"id": row.id, "text": answers[row.id].text, "correct": correct, **records.answer_to_record(answer)})
    return {"answers.jsonl": records.to_lines(lines)}
