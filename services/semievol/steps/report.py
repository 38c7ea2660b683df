"""What an iteration came to, as numbers: accuracies with intervals, the paired gain, the pseudo-labels' accuracy."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from semievol.algorithm.statistics import paired_gain, pseudo_label_accuracy, wilson
from semievol.algorithm.types import Decision
from semievol.common.keys import canonical_json
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    rows, verdicts = step.rows("unlabeled"), step.verdicts()
    selection = json.loads(step.artifacts.read(step.inputs["selection"][0].file))
    selected = [record["id"] for record in step.lines("fates") if record["reason"] == "kept"]
    gold = {record["id"]: record["answer"] for record in step.lines("gold")}
    decisions = Counter(verdict.decision for verdict in verdicts.values())
    correct = {
        role: [line["correct"] for line in step.lines(role)] if role in step.inputs else None
        for role in ("base", "warm", "evolved")
    }
    warm, evolved = correct["warm"], correct["evolved"]
    chosen = Counter(answer.value for row_id in selected if (answer := verdicts[row_id].answer))
    body: dict[str, Any] = {
        "labeled": len(step.rows("labeled")),
        "unlabeled": len(rows),
        "no_answer": decisions[Decision.NONE],
        "unanimous": decisions[Decision.UNANIMOUS],
        "judged": decisions[Decision.JUDGED],
        "threshold": selection["threshold"],
        "selected": len(selected),
        "selected_answers": dict(sorted(chosen.items())) if len(chosen) <= 26 else {},
        "accuracy": {role: _accuracy(flags) for role, flags in correct.items()},
        "gain": {"warm_to_evolved": _gain(warm, evolved, step.params["seed"])},
        "pseudo_label_accuracy": pseudo_label_accuracy(selected, verdicts, gold, {row.id: row for row in rows}, step.task),
    }
    return {"report.json": canonical_json(body)}


def _accuracy(flags: list[bool] | None) -> dict[str, float] | None:
    """No valid answer counts as wrong."""
    if not flags:
        return None
    low, high = wilson(sum(flags), len(flags))
    return {"n": len(flags), "value": sum(flags) / len(flags), "low": low, "high": high}


def _gain(before: list[bool] | None, after: list[bool] | None, seed: int) -> dict[str, float] | None:
    if not before or not after:
        return None
    value, low, high = paired_gain(before, after, seed)
    return {"value": value, "low": low, "high": high}
