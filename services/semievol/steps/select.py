"""Eq. 7-8: the cut; and the sets of Eq. 9 and of the next iteration (Sec. 4.3.7)."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from semievol.algorithm import semievol
from semievol.algorithm.types import Decision, Reason, Row, Selection
from semievol.common import errors
from semievol.common.keys import canonical_json
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes | Path]:
    """Of all rows only ids, entropies and fates are in memory at once, and the rows that are kept."""
    entropies = {record["id"]: records.entropy_from_record(record) for record in step.lines("entropies")}
    unanswered = sum(record["decision"] == Decision.NONE and not record["transcript"] for record in step.lines("verdicts"))
    _check_answers(unanswered, len(entropies), step.params["max_no_answer"])
    population = [
        value for record in step.lines("threshold_entropies") if (value := records.entropy_from_record(record)) is not None
    ]
    selection = semievol.select(entropies, step.params["theta"], threshold_entropies=population or None)
    remaining = records.PartsWriter(step.scratch, "unlabeled", step.params["shard_rows"])
    selected = _split(step, selection, remaining)
    labeled = step.rows("labeled")
    evolution = semievol.evolution_rows(labeled, selected, include_labeled=step.params["include_labeled"])
    if not evolution:
        raise errors.InvalidInput(
            "No row was selected and include_labeled is false: there is nothing to train on.", field="theta"
        )
    counts = Counter(reason.value for reason in selection.reasons.values())
    summary = {"threshold": selection.threshold, "reasons": {reason.value: counts[reason.value] for reason in Reason}}
    fates = (
        {"id": row_id, "reason": reason.value, **_entropy_field(entropies[row_id])}
        for row_id, reason in selection.reasons.items()
    )
    step.progress(len(entropies), len(entropies), "rows")
    written = {
        "labeled.jsonl": semievol.evolution_rows(labeled, selected),
        "evolution.jsonl": evolution,
        "selected.jsonl": selected,
    }
    return {
        **{name: records.write_lines(step.scratch / name, map(records.row_to_record, rows)) for name, rows in written.items()},
        "selection.json": canonical_json(summary),
        "fates.jsonl": records.write_lines(step.scratch / "fates.jsonl", fates),
        **remaining.paths,
    }


def _split(step: StepContext, selection: Selection, remaining: records.PartsWriter) -> list[Row]:
    """The rows that are kept, with their pseudo-responses; the others go to `remaining`. Parts come in row-id order, as intake cut them."""
    selected: list[Row] = []
    for row_records, verdict_records in step.parts("rows", "verdicts"):
        rows = [records.row_from_record(record) for record in row_records]
        verdicts = {record["id"]: records.verdict_from_record(record) for record in verdict_records}
        here = Selection(selection.threshold, {row.id: selection.reasons[row.id] for row in rows})
        chosen = semievol.pseudo_labeled(rows, verdicts, here)
        kept = {row.id for row in chosen}
        selected += chosen
        remaining.write(row for row in rows if row.id not in kept)
    remaining.close()
    return selected


def _check_answers(unanswered: int, total: int, most: float) -> None:
    """R6: too many rows without any valid answer mean a wrong task or prompt, not a hard data set."""
    if unanswered > most * total:
        raise errors.InvalidInput(
            f"For {unanswered} of {total} unlabeled rows no collaborator gave a valid answer (max_no_answer allows {most:.0%}). "
            "Check task.type, task.answer and max_tokens; `semievol plan` shows the prompts.",
            field="max_no_answer",
        )


def _entropy_field(value: float | None) -> records.Record:
    return {} if value is None or not math.isfinite(value) else {"entropy": value}
