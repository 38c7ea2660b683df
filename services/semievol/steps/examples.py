"""D -> training examples: the data set of FT(M_base, D) in Eq. 1 and Eq. 9."""

from __future__ import annotations

from semievol.algorithm import semievol
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    rows, k = step.rows("rows"), step.params["references"]
    references = {row_id: nearest[:k] for row_id, nearest in step.references().items()}
    pages = [
        records.to_lines(map(records.example_to_record, semievol.training_examples(page, step.task, references)))
        for page in step.pages(rows)
    ]
    return {"train.jsonl": b"".join(pages)}
