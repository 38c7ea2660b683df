"""What an iteration came to, as numbers: accuracies with intervals, the paired gain, the pseudo-labels' accuracy."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from semievol.algorithm.statistics import paired_gain, pseudo_label_accuracy, wilson
from semievol.algorithm.types import Decision, Verdict
from semievol.common.keys import canonical_json
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    selection = json.loads(step.artifacts.read(step.inputs["selection"][0].file))
    selected = [record["id"] for record in step.lines("fates") if record["reason"] == "kept"]
    kept = set(selected)  # of a million rows the others' are only counted
    decisions: Counter[str] = Counter()
    verdicts: dict[str, Verdict] = {}
    for record in step.lines("verdicts"):
        decisions[record["decision"]] += 1
        if record["id"] in kept:
            verdicts[record["id"]] = records.verdict_from_record(record)
    correct = {
        role: [line["correct"] for line in step.lines(role)] if role in step.inputs else None
        for role in ("base", "warm", "evolved")
    }
    warm, evolved = correct["warm"], correct["evolved"]
    chosen = Counter(answer.value for row_id in selected if (answer := verdicts[row_id].answer))
    body: dict[str, Any] = {
        "labeled": sum(1 for _ in step.lines("labeled")),
        "unlabeled": decisions.total(),
        "no_answer": decisions[Decision.NONE],
        "unanimous": decisions[Decision.UNANIMOUS],
        "judged": decisions[Decision.JUDGED],
        "threshold": selection["threshold"],
        "selected": len(selected),
        "selected_answers": dict(sorted(chosen.items())) if len(chosen) <= 26 else {},
        "accuracy": {role: _accuracy(flags) for role, flags in correct.items()},
        "gain": {"warm_to_evolved": _gain(warm, evolved, step.params["seed"])},
        "pseudo_label_accuracy": _pseudo_label_accuracy(step, verdicts, selected),
    }
    if "gate" in step.inputs:
        body["gate"] = json.loads(step.artifacts.read(step.inputs["gate"][0].file))
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


def _pseudo_label_accuracy(step: StepContext, verdicts: dict[str, Verdict], selected: list[str]) -> float | None:
    gold = {record["id"]: record["answer"] for record in step.lines("gold")}
    if not gold:
        return None
    rows = {record["id"]: records.row_from_record(record) for record in step.lines("unlabeled") if record["id"] in verdicts}
    return pseudo_label_accuracy(selected, verdicts, gold, rows, step.task)
