"""D -> training examples: the data set of FT(M_base, D) in Eq. 1 and Eq. 9."""

from __future__ import annotations

from pathlib import Path

from semievol.algorithm import semievol
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes | Path]:
    rows, k = step.rows("rows"), step.params["references"]
    references = {row_id: nearest[:k] for row_id, nearest in step.references().items()}
    examples = (
        records.example_to_record(example)
        for page in step.pages(rows)
        for example in semievol.training_examples(page, step.task, references)
    )
    return {"train.jsonl": records.write_lines(step.scratch / "train.jsonl", examples)}
