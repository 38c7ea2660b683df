"""More unlabeled rows between two iterations (continuous evolution, Sec. 4.3.6): those that are left and those that came."""

from __future__ import annotations

from pathlib import Path

from semievol.common.keys import canonical_json
from semievol.data.overlaps import contents, new_rows
from semievol.steps import records
from semievol.steps.context import StepContext
from semievol.steps.intake import gold_lines, read_rows

KNOWN = ("labeled", "unlabeled", "test", "dev")


def run(step: StepContext) -> dict[str, bytes | Path]:
    known = contents(row for role in KNOWN for row in step.rows(role))
    rows = step.rows("unlabeled")
    gold = {record["id"]: record["answer"] for record in step.lines("gold")}
    repeated = 0
    for number, uri in enumerate(step.params["added"], 1):
        data = read_rows(step, "unlabeled", uri)
        fresh = new_rows(data.rows, known)
        repeated += len(data.rows) - len(fresh)
        rows += fresh
        known |= contents(fresh)
        gold |= {row.id: data.answers[row.id] for row in fresh if row.id in data.answers}
        step.progress(number, len(step.params["added"]), "files")
    outputs: dict[str, bytes | Path] = {**records.row_parts(step.scratch, "unlabeled", rows, step.params["shard_rows"])}
    if gold:
        outputs["gold.jsonl"] = gold_lines(gold)
    return outputs | {"extend.json": canonical_json({"unlabeled": len(rows), "repeated": repeated})}
