"""D -> training examples: the data set of FT(M_base, D) in Eq. 1 and Eq. 9."""

from __future__ import annotations

from semievol.algorithm import semievol
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    rows, k = step.rows("rows"), step.params["references"]
    references = {row_id: nearest[:k] for row_id, nearest in step.references().items()}
    made = semievol.training_examples(rows, step.task, references)
    step.progress(len(rows), len(rows), "rows")
    return {"train.jsonl": records.to_lines(records.example_to_record(example) for example in made)}
