"""Eq. 7-8: the cut; and the sets of Eq. 9 and of the next iteration (Sec. 4.3.7)."""

from __future__ import annotations

import math
from collections import Counter

from semievol.algorithm import semievol
from semievol.algorithm.types import Decision, Reason
from semievol.common import errors
from semievol.common.keys import canonical_json
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    rows, labeled, verdicts = step.rows("rows"), step.rows("labeled"), step.verdicts()
    unanswered = [one for one in verdicts.values() if one.decision is Decision.NONE and not one.transcript]
    _check_answers(len(unanswered), len(rows), step.params["max_no_answer"])
    entropies = {record["id"]: _entropy(record) for record in step.lines("entropies")}
    population = [value for record in step.lines("threshold_entropies") if (value := _entropy(record)) is not None]
    selection = semievol.select(entropies, step.params["theta"], threshold_entropies=population or None)
    selected = semievol.pseudo_labeled(rows, verdicts, selection)
    evolution = semievol.evolution_rows(labeled, selected, include_labeled=step.params["include_labeled"])
    if not evolution:
        raise errors.InvalidInput(
            "No row was selected and include_labeled is false: there is nothing to train on.", field="theta"
        )
    kept = {row.id for row in selected}
    remaining = [row for row in rows if row.id not in kept]
    counts = Counter(reason.value for reason in selection.reasons.values())
    summary = {"threshold": selection.threshold, "reasons": {reason.value: counts[reason.value] for reason in Reason}}
    fates = [
        {"id": row_id, "reason": reason.value, **_entropy_field(entropies[row_id])}
        for row_id, reason in selection.reasons.items()
    ]
    step.progress(len(rows), len(rows), "rows")
    return {
        "labeled.jsonl": records.to_lines(map(records.row_to_record, semievol.evolution_rows(labeled, selected))),
        "evolution.jsonl": records.to_lines(map(records.row_to_record, evolution)),
        "selected.jsonl": records.to_lines(map(records.row_to_record, selected)),
        "selection.json": canonical_json(summary),
        "fates.jsonl": records.to_lines(fates),
        **records.row_parts("unlabeled", remaining, step.params["shard_rows"]),
    }


def _check_answers(unanswered: int, total: int, most: float) -> None:
    """R6: too many rows without any valid answer mean a wrong task or prompt, not a hard data set."""
    if unanswered > most * total:
        raise errors.InvalidInput(
            f"For {unanswered} of {total} unlabeled rows no collaborator gave a valid answer (max_no_answer allows {most:.0%}). "
            "Check task.type, task.answer and max_tokens; `semievol plan` shows the prompts.",
            field="max_no_answer",
        )


def _entropy(record: records.Record) -> float | None:
    return math.nan if record.get("no_entropy") else record["entropy"]


def _entropy_field(value: float | None) -> records.Record:
    return {} if value is None or not math.isfinite(value) else {"entropy": value}
